"""Real worker processes for tests: ours and Celery's.

1. `start_worker` runs `python -m framework -A … worker …`, `start_celery_worker` the same with `celery`, each in a
   session of its own with its output in a file.
2. `WorkerProcess.wait_ready` and `wait_line` wait for what the worker says, and fail at once, with its output, if it
   ends.
3. `stop` asks with TERM and returns the exit code; `kill` and `close` leave nothing of the process tree behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGTERM

import psutil

from support.processes import kill_all, members, spawn, tail
from support.wait import wait_for

#: Where the sample applications live: `-A proj`, `-A celeryproj`.
APP_DIR = Path(__file__).parent
READY_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0


class WorkerProcess:
    """One worker, and everything that it started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, argv: Sequence[str]) -> None:
        self.process = process
        self.log = log
        self.argv = list(argv)
        self.pid = process.pid
        self._scratch: Path | None = None

    # ------------------------------------------------------------ what it says

    @property
    def output(self) -> str:
        """Everything that it has printed or logged so far."""
        return self.log.read_text(errors="replace")

    def lines(self, pattern: str) -> list[str]:
        """Return the lines of the output in which `pattern` (a regular expression) is found."""
        return [line for line in self.output.splitlines() if re.search(pattern, line)]

    def wait_line(self, pattern: str, timeout: float = 30, count: int = 1) -> re.Match[str]:
        """Wait until `pattern` occurs `count` times; returns the last match. Fails at once if the worker has ended."""
        compiled = re.compile(pattern, re.MULTILINE)

        def found() -> re.Match[str] | None:
            ended = self.process.poll()  # before reading: what it printed last is then in the file
            matches = list(compiled.finditer(self.output))
            if len(matches) >= count:
                return matches[-1]
            if ended is not None:
                raise AssertionError(f"the worker ended with {ended} before /{pattern}/ came:\n{tail(self.log)}")
            return None

        match = wait_for(found, timeout, lambda: f"/{pattern}/ from the worker:\n{tail(self.log)}")
        assert match is not None
        return match

    def wait_ready(self, timeout: float = READY_TIMEOUT, count: int = 1) -> WorkerProcess:
        """Wait for its (`count`-th) line `<node> ready.`; returns the worker itself."""
        self.wait_line(r"\S+@\S+ ready\.", timeout, count)
        return self

    @property
    def node(self) -> str:
        """Its node name, as in its ready line."""
        return self.wait_line(r"(\S+@\S+) ready\.")[1]

    # ------------------------------------------------------------ what can be done to it

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while it runs, -N if signal N killed it."""
        return self.process.poll()

    def children(self) -> list[psutil.Process]:
        """Return all living processes of its tree but the worker itself."""
        return [process for process in members(self.pid) if process.pid != self.pid]

    def signal(self, number: int) -> None:
        """Send a signal to the worker's main process."""
        self.process.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for it to end by itself; returns the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker still runs after {timeout:g} s:\n{tail(self.log)}") from None

    def stop(self, number: int = SIGTERM, timeout: float = STOP_TIMEOUT) -> int:
        """Send TERM (or another signal) and wait for the end; returns the exit code."""
        if self.running:
            self.signal(number)
        return self.wait(timeout)

    def kill(self) -> None:
        """Kill the main process alone, as the OOM killer would; what it leaves behind is `close`'s."""
        if self.running:
            self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        """Kill everything that is left of it; harmless when repeated."""
        kill_all(members(self.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self._scratch is not None:
            with contextlib.suppress(OSError):
                self.log.unlink()
                self._scratch.rmdir()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid} {' '.join(self.argv[1:])}>"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with nothing in it that configures a worker, and `extra` on top."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("FRAMEWORK_", "CELERY", "TEST_")) and key != "PYTHONPATH"
    }
    # Lines must reach the file as they are written, and the samples import `ledger` beside them.
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(APP_DIR.parent)} | dict(extra or {})


def app_environment(
    *,
    broker: str | None = None,
    backend: str | None = None,
    ledger: str | os.PathLike[str] | None = None,
    conf: str | None = None,
) -> dict[str, str]:
    """Return the variables that `proj` and `celeryproj` read; `conf` is a JSON object of settings."""
    values = {"TEST_BROKER_URL": broker, "TEST_RESULT_URL": backend, "TEST_LEDGER": ledger, "TEST_CONF": conf}
    return {key: str(value) for key, value in values.items() if value is not None}


def start_worker(
    app_dir: str | os.PathLike[str] | None = None,
    *args: str,
    app: str = "proj",
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    through: Sequence[str] = (),
) -> WorkerProcess:
    """Start `python -m framework -A <app> worker <args>` in `app_dir` (default: the samples' directory).

    An empty `app` leaves `-A` out, for tests that write it elsewhere. `through`: a command that runs its arguments.
    """
    chosen = ["-A", app] if app else []
    # The ready line, which the tests wait for, is logged at INFO.
    level = [] if any(arg.startswith(("-l", "--loglevel")) for arg in args) else ["-l", "info"]
    argv = [*through, sys.executable, "-m", "framework", *chosen, "worker", *level, *args]
    return _start(argv, app_dir, env, log)


def start_celery_worker(
    app_dir: str | os.PathLike[str] | None = None,
    *args: str,
    app: str = "celeryproj",
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> WorkerProcess:
    """Start a real Celery worker the same way."""
    argv = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "info", *args]
    return _start(argv, app_dir, env, log)


def run_command(
    *args: str, app_dir: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run `python -m framework <args>` to its end and return what it printed; nothing is checked."""
    return subprocess.run(
        [sys.executable, "-m", "framework", *args],
        cwd=app_dir or APP_DIR,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _start(
    argv: Sequence[str], app_dir: str | os.PathLike[str] | None, env: Mapping[str, str] | None, log: Path | None
) -> WorkerProcess:
    scratch = None
    if log is None:
        scratch = Path(tempfile.mkdtemp(prefix="test-worker-"))
        log = scratch / "worker.log"
    log.touch()
    worker = WorkerProcess(spawn(argv, log=log, cwd=app_dir or APP_DIR, env=environment(env)), log, argv)
    worker._scratch = scratch
    return worker
