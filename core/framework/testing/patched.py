"""Runs tests of pools that patch the interpreter in patched child processes, because patching cannot be undone.

1. `patcher_of` finds out, in a separate process, which class patches the interpreter for a pool.
2. `PatchedInterpreters` starts a `PatchedInterpreter` for each suite: ``python -m framework.testing.patched
   <module:Class> <descriptors> <pytest's arguments>``. It requests one test after another and forwards the reports.
3. `main`, in the child process, patches the interpreter and runs pytest with the plugin `RequestServer`, which runs
   the requested tests and writes their reports to a pipe.
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

#: Name of the pytest plugin that runs in the child process.
SERVER: Final = "framework-testing-server"
#: Seconds without a report after which the child process is killed.
SILENCE: Final = 180.0
#: Marks the end of a test's reports.
_DONE: Final = "done"
_TAIL: Final = 4_000
_ASK: Final = (
    "import sys; from framework._boot import loader; from framework.testing import patched; "
    "print(patched.patcher_of(loader.load('pool', sys.argv[1])) or '')"
)


def patcher_of(pool: str | type[Pool]) -> str | None:
    """Return the class that patches the interpreter for a pool, as ``module:Class``; None: no patching is needed."""
    if isinstance(pool, str):
        return _ask(pool)
    if pool.patched():
        return None
    # Name the class that defines `patch`: a subclass in a test file may not be importable.
    patcher = next(kind for kind in pool.__mro__ if "patch" in vars(kind))
    return f"{patcher.__module__}:{patcher.__qualname__}"


@cache
def _ask(name: str) -> str | None:
    # In a child process, because loading the pool may import a green library, which this process must not do.
    done = subprocess.run([sys.executable, "-c", _ASK, name], capture_output=True, text=True, check=False)
    # If the pool cannot be loaded, the fixture of the test reports the error.
    return done.stdout.strip() or None


class PatchedInterpreters:
    """The patched interpreters of a session: one for each suite, started for its first test."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._running: dict[Any, PatchedInterpreter] = {}

    def run(self, item: pytest.Item, patcher: str) -> None:
        """Run `item` in the suite's patched interpreter and report it in this session."""
        suite = getattr(item, "cls", None)
        if suite not in self._running:
            items = [each for each in self._session.items if getattr(each, "cls", None) is suite]
            self._running[suite] = PatchedInterpreter(self._session.config, patcher, [each.nodeid for each in items])
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._running[suite].run(item):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def close(self) -> None:
        """End all patched interpreters."""
        for child in self._running.values():
            child.close()


class PatchedInterpreter:
    """A child process that patches its interpreter and runs the requested tests."""

    def __init__(self, config: pytest.Config, patcher: str, nodeids: list[str]) -> None:
        self._config = config
        self._patcher = patcher
        self._rest = b""
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        request_end, self._requests = os.pipe()
        self._reports, report_end = os.pipe()
        descriptors = f"{request_end},{report_end}"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, patcher, descriptors, *_options(config), *nodeids],
                cwd=config.rootpath,
                pass_fds=[request_end, report_end],
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.close(request_end)
            os.close(report_end)

    def run(self, item: pytest.Item) -> list[Any]:
        """Run `item` and return its reports."""
        reports: list[Any] = []
        try:
            os.write(self._requests, f"{json.dumps(item.nodeid)}\n".encode())
            while (data := self._read()) != _DONE:
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                if isinstance(report.longrepr, list):
                    report.longrepr = tuple(report.longrepr)  # a skipped test: (path, line, reason)
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
        """Close the request pipe, which ends the process; kill it if it does not end."""
        os.close(self._requests)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reports)
        self._output.close()


def _options(config: pytest.Config) -> list[str]:
    """Return the options of this pytest run that the child's run needs."""
    option = config.option
    found = [f"--rootdir={config.rootpath}", f"--import-mode={config.getoption('importmode')}"]
    found += ["-c", str(config.inipath)] if config.inipath else []
    found += [part for value in option.override_ini or () for part in ("-o", value)]
    found += [part for value in option.pythonwarnings or () for part in ("-W", value)]
    found += [part for value in option.plugins or () for part in ("-p", value)]
    # The child runs the requested test itself, without xdist.
    found += ["-n0"] if config.pluginmanager.hasplugin("xdist") else []
    # The child imports the project before pytest, to patch; pytest warns that it cannot rewrite those modules.
    found += ["-W", "ignore:Module already imported so cannot be rewritten"]
    return [*found, "-p", "no:cacheprovider", "-q"]


def _first(function: Any) -> Any:
    """Mark a hook as `tryfirst`, like `pytest.hookimpl`, which cannot be imported before the patching."""
    function.pytest_impl = {"tryfirst": True}
    return function


class RequestServer:
    """The pytest plugin in the child process: runs the requested tests."""

    def __init__(self, requests: int, reports: int) -> None:
        self._requests = os.fdopen(requests, encoding="utf-8")
        self._reports = os.fdopen(reports, "w", encoding="utf-8")
        self._config: pytest.Config | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        """Store the configuration, whose hooks serialize reports."""
        self._config = config

    @_first
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run requested tests until the request pipe is closed."""
        items = {item.nodeid: item for item in session.items}
        for line in self._requests:
            item = items[json.loads(line)]
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
            self._write(_DONE)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a report to the pipe."""
        assert self._config is not None
        self._write(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def _write(self, data: Any) -> None:
        self._reports.write(json.dumps(data) + "\n")
        self._reports.flush()


def main() -> int:
    """Patch the interpreter, then run pytest."""
    patcher, descriptors, *arguments = sys.argv[1:]
    module, _, name = patcher.partition(":")
    attrgetter(name)(import_module(module)).patch()
    import pytest  # after the patching, so that pytest uses the patched standard library

    requests, reports = map(int, descriptors.split(","))

    class Registrar:
        """Registers the `RequestServer` under the name by which `framework.testing.plugin` finds it."""

        def pytest_configure(self, config: pytest.Config) -> None:
            """Register the plugin before pytest selects the hook `pytest_runtestloop`."""
            config.pluginmanager.register(RequestServer(requests, reports), SERVER)

    return int(pytest.main(arguments, plugins=[Registrar()]))


if __name__ == "__main__":
    sys.exit(main())
