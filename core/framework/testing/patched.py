"""Tests of pools that patch the interpreter, in an interpreter that is patched: patching is for ever.

1. `patcher_of` asks, in a process of its own, which class patches the interpreter for a pool.
2. `Elsewhere` has an interpreter for each suite, `Child`: ``python -m framework.testing.patched <module:Class>
   <descriptors> <pytest's arguments>``. It asks for one test after another, and passes on the reports.
3. `main`, over there: patches, then runs pytest with the plugin `Servant`, which runs what it is asked for and writes
   every report to a pipe.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pytest

    from framework.api.pool import Pool

#: Name of the plugin that writes reports.
SERVANT: Final = "framework-testing-servant"
#: Seconds without a report after which the interpreter is given up.
SILENCE: Final = 180.0
#: What the last report of a test is followed by.
_DONE: Final = "done"
_TAIL: Final = 4_000
_ASK: Final = (
    "import sys; from framework._boot import loader; from framework.testing import patched; "
    "print(patched.patcher_of(loader.load('pool', sys.argv[1])) or '')"
)


def patcher_of(pool: str | type[Pool]) -> str | None:
    """Return ``module:Class`` of what has to patch the interpreter for a pool; None: it can be tested in this one."""
    if isinstance(pool, str):
        return _ask(pool)
    if pool.patched():
        return None
    # The class that has the method: one that is written in a test's file need not be importable by its name.
    patcher = next(kind for kind in pool.__mro__ if "patch" in vars(kind))
    return f"{patcher.__module__}:{patcher.__qualname__}"


@cache
def _ask(name: str) -> str | None:
    # Not here: a green library is not for a process that is not to be patched.
    done = subprocess.run([sys.executable, "-c", _ASK, name], capture_output=True, text=True, check=False)
    # A pool that cannot be loaded says so where it is loaded for a test.
    return done.stdout.strip() or None


class Elsewhere:
    """The interpreters of one session: one for each suite, started when its first test is due."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._running: dict[Any, Child] = {}

    def run(self, item: pytest.Item, patcher: str) -> None:
        """Run `item` there and report it here."""
        suite = getattr(item, "cls", None)
        if suite not in self._running:
            items = [each for each in self._session.items if getattr(each, "cls", None) is suite]
            self._running[suite] = Child(self._session.config, patcher, [each.nodeid for each in items])
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._running[suite].run(item):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def close(self) -> None:
        """End all of them."""
        for child in self._running.values():
            child.close()


class Child:
    """One patched interpreter."""

    def __init__(self, config: pytest.Config, patcher: str, nodeids: list[str]) -> None:
        self._config = config
        self._patcher = patcher
        self._rest = b""
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        theirs, self._requests = os.pipe()
        self._reports, theirs_too = os.pipe()
        descriptors = f"{theirs},{theirs_too}"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, patcher, descriptors, *_options(config), *nodeids],
                cwd=config.rootpath,
                pass_fds=[theirs, theirs_too],
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.close(theirs)
            os.close(theirs_too)

    def run(self, item: pytest.Item) -> list[Any]:
        """Run `item` and return its reports."""
        reports: list[Any] = []
        try:
            os.write(self._requests, f"{json.dumps(item.nodeid)}\n".encode())
            while (data := self._read()) != _DONE:
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                if isinstance(report.longrepr, list):
                    report.longrepr = tuple(report.longrepr)  # of a skipped test: where and why
                reports.append(report)
        except (EOFError, BrokenPipeError):
            reports.append(self._lost(item))
        return reports

    def _read(self) -> Any:
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._reports], [], [], SILENCE)
            data = os.read(self._reports, 65_536) if ready else b""
            if not data:
                raise EOFError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _lost(self, item: pytest.Item) -> Any:
        import pytest

        self._process.kill()
        code = self._process.wait()
        self._output.seek(0)
        text = self._output.read()[-_TAIL:].decode(errors="replace")
        return pytest.TestReport(
            item.nodeid,
            item.location,
            {},
            "failed",
            f"the interpreter patched by {self._patcher} ended with {code} before it had run this test:\n{text}",
            "call",
        )

    def close(self) -> None:
        """End it: it leaves when nothing more can be asked, and is killed if it does not."""
        os.close(self._requests)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reports)
        self._output.close()


def _options(config: pytest.Config) -> list[str]:
    """Return what of this run's command line holds for the other one."""
    option = config.option
    found = [f"--rootdir={config.rootpath}", f"--import-mode={config.getoption('importmode')}"]
    found += ["-c", str(config.inipath)] if config.inipath else []
    found += [part for value in option.override_ini or () for part in ("-o", value)]
    found += [part for value in option.pythonwarnings or () for part in ("-W", value)]
    found += [part for value in option.plugins or () for part in ("-p", value)]
    # One test at a time, and where it is asked for.
    found += ["-n0"] if config.pluginmanager.hasplugin("xdist") else []
    # The project is imported there before pytest is, to patch; pytest would rather have come first.
    found += ["-W", "ignore:Module already imported so cannot be rewritten"]
    return [*found, "-p", "no:cacheprovider", "-q"]


def _first(function: Any) -> Any:
    """Have pytest call `function` before its own; as `pytest.hookimpl` does, which cannot be imported yet."""
    function.pytest_impl = {"tryfirst": True}
    return function


class Servant:
    """The plugin over there: runs the tests that it is asked for."""

    def __init__(self, requests: int, reports: int) -> None:
        self._requests = os.fdopen(requests, encoding="utf-8")
        self._reports = os.fdopen(reports, "w", encoding="utf-8")
        self._config: pytest.Config | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        """Keep the configuration: its hooks turn reports into data."""
        self._config = config

    @_first
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run one test after another, until nobody asks any more."""
        items = {item.nodeid: item for item in session.items}
        for line in self._requests:
            item = items[json.loads(line)]
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
            self._write(_DONE)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pass a report on."""
        assert self._config is not None
        self._write(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def _write(self, data: Any) -> None:
        self._reports.write(json.dumps(data) + "\n")
        self._reports.flush()


def main() -> int:
    """Patch, then run pytest."""
    patcher, descriptors, *arguments = sys.argv[1:]
    module, _, name = patcher.partition(":")
    attrgetter(name)(import_module(module)).patch()
    import pytest  # only now: everything must find the patched standard library

    requests, reports = map(int, descriptors.split(","))

    class Door:
        """Registers the servant under a name that others can ask for."""

        def pytest_configure(self, config: pytest.Config) -> None:
            """Register it, before the loop over the tests is looked for."""
            config.pluginmanager.register(Servant(requests, reports), SERVANT)

    return int(pytest.main(arguments, plugins=[Door()]))


if __name__ == "__main__":
    sys.exit(main())
