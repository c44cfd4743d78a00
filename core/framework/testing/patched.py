"""Tests of pools that patch the interpreter, in an interpreter that is patched: patching is for ever.

1. `patch_of` asks, in a process of its own, which library a pool wants to patch.
2. `Elsewhere`, in the process that was started by hand: runs the tests of one suite in `python -m
   framework.testing.patched <library> <pytest's arguments>`, and passes on each report as it comes.
3. `main`, in that process: patches, then runs pytest with a plugin that writes every report to a pipe.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Final

from framework._boot.preload import preload_library

if TYPE_CHECKING:
    import pytest

    from framework.api.pool import Pool

#: Name of the plugin that writes reports.
REPORTER: Final = "framework-testing-reports"
#: Seconds without a report after which the interpreter is given up.
SILENCE: Final = 180.0
_TAIL: Final = 4_000
_PATCH_OF: Final = (
    "import sys; from framework._plugins import loader; print(loader.load('pool', sys.argv[1]).traits.patch or '')"
)


def patch_of(pool: str | type[Pool]) -> str | None:
    """Return the library that a pool wants to patch, None if it has no such wish."""
    return _patch_of(pool) if isinstance(pool, str) else pool.traits.patch


@cache
def _patch_of(name: str) -> str | None:
    # Not here: importing gevent's or eventlet's half is not for a process that is not to be patched.
    done = subprocess.run([sys.executable, "-c", _PATCH_OF, name], capture_output=True, text=True, check=False)
    # A pool that cannot be loaded says so where it is loaded for a test.
    return done.stdout.strip() or None


class Elsewhere:
    """The interpreters of one session: one for each suite, started when its first test is due."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._running: dict[Any, Child] = {}

    def run(self, item: pytest.Item, library: str) -> None:
        """Run `item` there and report it here."""
        suite = getattr(item, "cls", None)
        if suite not in self._running:
            items = [each for each in self._session.items if getattr(each, "cls", None) is suite]
            self._running[suite] = Child(self._session.config, library, [each.nodeid for each in items])
        child = self._running[suite]
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in child.reports(item):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def close(self) -> None:
        """End all of them."""
        for child in self._running.values():
            child.close()


class Child:
    """One patched interpreter."""

    def __init__(self, config: pytest.Config, library: str, nodeids: list[str]) -> None:
        self._config = config
        self._library = library
        self._seen: dict[str, list[Any]] = {}
        self._rest = b""
        read, write = os.pipe()
        self._pipe = read
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        argv = [sys.executable, "-m", __name__, library, str(write), *_options(config), *nodeids]
        try:
            self._process = subprocess.Popen(
                argv, cwd=config.rootpath, pass_fds=[write], stdout=self._output, stderr=subprocess.STDOUT
            )
        finally:
            os.close(write)

    def reports(self, item: pytest.Item) -> list[Any]:
        """Return the reports of `item`, as soon as they are complete."""
        while not any(report.when == "teardown" for report in self._seen.get(item.nodeid, ())):
            if not self._read():
                return [*self._seen.pop(item.nodeid, []), self._lost(item)]
        return self._seen.pop(item.nodeid)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._pipe], [], [], SILENCE)
        data = os.read(self._pipe, 65_536) if ready else b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            hook = self._config.hook
            report = hook.pytest_report_from_serializable(config=self._config, data=json.loads(line))
            if isinstance(report.longrepr, list):
                report.longrepr = tuple(report.longrepr)  # of a skipped test: where and why
            self._seen.setdefault(report.nodeid, []).append(report)
        return bool(data)

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
            f"the interpreter patched by {self._library} ended with {code} before it reported this test:\n{text}",
            "call",
        )

    def close(self) -> None:
        """End it, if it runs still."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._pipe)
        self._output.close()


def _options(config: pytest.Config) -> list[str]:
    """Return what of this run's command line holds for the other one."""
    option = config.option
    found = [f"--rootdir={config.rootpath}", f"--import-mode={config.getoption('importmode')}"]
    found += ["-c", str(config.inipath)] if config.inipath else []
    found += [part for value in option.override_ini or () for part in ("-o", value)]
    found += [part for value in option.pythonwarnings or () for part in ("-W", value)]
    found += [part for value in option.plugins or () for part in ("-p", value)]
    found += [f"--maxfail={option.maxfail}"] if option.maxfail else []
    # Reports go to one pipe, in order.
    found += ["-n0"] if config.pluginmanager.hasplugin("xdist") else []
    # The project is imported there before pytest is, to patch; pytest would rather have come first.
    found += ["-W", "ignore:Module already imported so cannot be rewritten"]
    return [*found, "-p", "no:cacheprovider", "-q"]


class Reporter:
    """Writes every report to a pipe, one line each."""

    def __init__(self, fd: int) -> None:
        self._pipe = os.fdopen(fd, "w", encoding="ascii")
        self._config: pytest.Config | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        """Keep the configuration: its hooks turn reports into data."""
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write one."""
        assert self._config is not None
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._pipe.write(json.dumps(data) + "\n")
        self._pipe.flush()


def main() -> int:
    """Patch, then run pytest."""
    library, fd, *arguments = sys.argv[1:]
    preload_library(library)
    import pytest  # only now: everything must find the patched standard library

    class Plugins:
        """Registers the reporter under a name that others can ask for."""

        def pytest_configure(self, config: pytest.Config) -> None:
            """Register it."""
            reporter = Reporter(int(fd))
            config.pluginmanager.register(reporter, REPORTER)

    return int(pytest.main(arguments, plugins=[Plugins()]))


if __name__ == "__main__":
    sys.exit(main())
