"""The pytest plugin of the suites. Pytest loads it through its entry point, without configuration.

1. Runs each test of a pool through its `Bench`, which chooses the thread and checks the pool's reports.
2. Runs tests of a pool that patches the interpreter in a patched child process, and reports them in this session.
3. Prints, at the end, how many promises each plugin kept and which promises were skipped because of a missing trait.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

# Import only pytest here: every run of pytest in the environment loads this module.
pytest.register_assert_rewrite("framework.testing")

#: The attributes in which suites name the plugin under test.
FAMILIES = ("pool", "transport", "fsnotify", "autoscaler", "result_store")
#: User property of a test item: the plugin under test.
SUBJECT = "framework plugin"
MISSING = "missing trait"
_interpreters = pytest.StashKey[Any]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the suites."""
    config.addinivalue_line("markers", "needs_trait(*names): traits without which this promise is not asked for")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a test of a pool through its bench."""
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
    """Run a test of a pool that patches the interpreter in a patched child process."""
    suite = getattr(item, "cls", None)
    subject = next(filter(None, (getattr(suite, family, None) for family in FAMILIES)), None)
    if subject is None or not hasattr(suite, "patience"):
        return None
    name = subject if isinstance(subject, str) else subject.__name__
    item.user_properties.append((SUBJECT, name))
    if not hasattr(suite, "pool"):
        return None
    from framework.testing.patched import SERVER, PatchedInterpreters, patcher_of

    if item.config.pluginmanager.hasplugin(SERVER):
        return None  # this is the patched child process
    patcher = patcher_of(subject)
    if patcher is None:
        return None
    interpreters = item.session.stash.setdefault(_interpreters, PatchedInterpreters(item.session))
    interpreters.run(item, patcher)
    # The previous test left its fixtures set up for this one: tear down those that the next one does not need.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the patched interpreters of this session."""
    if (interpreters := session.stash.get(_interpreters, None)) is not None:
        interpreters.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the number of kept, broken and skipped promises of each plugin."""
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
            line += f"; not tested without the trait {left}"
        terminalreporter.write_line(line)
