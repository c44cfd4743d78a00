"""The pytest plugin behind the suites; pytest finds it by its entry point, nothing has to be configured.

1. Runs the tests of pools: each function by way of its `Bench`, which knows in which thread, and checks the books.
2. Runs the tests of a pool that patches the interpreter in another one, and reports them here one by one.
3. Says at the end how many promises each plugin kept, and which were not tested for want of which trait.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

# Only what pytest needs is imported here: this module is part of every run of pytest in the environment.
pytest.register_assert_rewrite("framework.testing")

#: The attribute in which a suite names its plugin.
FAMILIES = ("pool", "transport", "fsnotify", "autoscaler", "result_store")
#: What says, on an item, which plugin it tests.
SUBJECT = "framework plugin"
MISSING = "missing trait"
_elsewhere = pytest.StashKey[Any]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the suites."""
    config.addinivalue_line("markers", "needs_trait(*names): traits without which this promise is not asked for")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run the tests of pools by way of their bench."""
    bench = pyfuncitem.funcargs.get("start")
    if bench is None or not hasattr(pyfuncitem.cls, "pool"):
        return None
    from framework.testing.pools.base import Bench

    if not isinstance(bench, Bench):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    bench.run(lambda: pyfuncitem.obj(**arguments))
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    """Have tests of a pool that patches the interpreter run in another one."""
    suite = getattr(item, "cls", None)
    subject = next(filter(None, (getattr(suite, family, None) for family in FAMILIES)), None)
    if subject is None or not hasattr(suite, "patience"):
        return None
    name = subject if isinstance(subject, str) else subject.__name__
    item.user_properties.append((SUBJECT, name))
    if not hasattr(suite, "pool"):
        return None
    from framework.testing.patched import SERVANT, Elsewhere, patcher_of

    if item.config.pluginmanager.hasplugin(SERVANT):
        return None  # this is the patched interpreter
    patcher = patcher_of(subject)
    if patcher is None:
        return None
    elsewhere = item.session.stash.setdefault(_elsewhere, Elsewhere(item.session))
    elsewhere.run(item, patcher)
    # What the test before had set up was kept for this one: it ends here unless the next one wants it.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the interpreters that were started for this session."""
    if (elsewhere := session.stash.get(_elsewhere, None)) is not None:
        elsewhere.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was tested of each plugin and what was not."""
    kept: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    missing: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = dict(getattr(report, "user_properties", ()))
            if (name := properties.get(SUBJECT)) is None:
                continue
            kept[name] += outcome == "passed"
            broken[name] += outcome == "failed"
            if trait := properties.get(MISSING):
                missing.setdefault(name, Counter())[trait] += 1
    if not kept:
        return
    terminalreporter.section("plugins of framework")
    for name in sorted(kept):
        line = f"{name}: {kept[name]} promises kept, {broken[name]} broken"
        if name in missing:
            left = ", ".join(f"{trait} ({number})" for trait, number in sorted(missing[name].items()))
            line += f"; not tested for want of the trait {left}"
        terminalreporter.write_line(line)
