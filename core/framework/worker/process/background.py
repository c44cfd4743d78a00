"""A worker in the background.

1. `start` runs the command line of the user's process again, in a new session without a terminal. It waits until that
   process has started or ended, and copies the output until then to standard error.
2. `Background` is the new process's side: `detach` leaves the parent's streams, the other methods report to the parent.
3. HUP replaces the program and keeps the process: `join` recognises the process id, so that it does not detach twice.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from framework import exitcodes
from framework.exceptions import ConfigError

if TYPE_CHECKING:
    import subprocess

#: Environment variable with the descriptor that the parent reads.
_DESCRIPTOR: Final = "FRAMEWORK_BACKGROUND_FD"
#: Environment variable with the id of the process that already runs in the background.
_PROCESS: Final = "FRAMEWORK_BACKGROUND_PID"
#: Seconds between two checks whether the new process has ended without a report.
_POLL_INTERVAL: Final = 0.05


def redirect(path: str | None) -> None:
    """Redirect descriptors 1 and 2 to the file `path`; None: to the null device. Raises `ConfigError`."""
    try:
        fd = os.open(path or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"the log file {path} cannot be opened: {error.strerror}") from error
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(OSError):  # a full disk, or nobody reads
                stream.flush()
    for standard in (1, 2):
        os.dup2(fd, standard)
    os.close(fd)


class Background:
    """The background process's side: reports to the parent whether the worker has started."""

    def __init__(self, fd: int = -1) -> None:
        """`fd`: the pipe to the parent; -1: no parent waits."""
        self._fd = fd
        self._detached = False

    def detach(self, logfile: str | None) -> None:
        """Write to `logfile` from now on, or to the null device; the parent shows the output before that."""
        redirect(logfile)
        self._detached = True

    def report_started(self, node: str, logfile: str | None) -> None:
        """Report to the parent that the worker has started; the parent then exits."""
        self._report({"node": node, "logfile": logfile})

    def report_failed(self, text: str) -> None:
        """Report to the parent why the worker did not start; before `detach` the output has shown it."""
        if self._detached:
            self._report({"error": text})

    def _report(self, message: Mapping[str, Any]) -> None:
        if self._fd >= 0:
            # The parent may have been interrupted.
            with contextlib.suppress(OSError):
                os.write(self._fd, msgspec.json.encode(message))
            os.close(self._fd)
            self._fd = -1


def join() -> Background | None:
    """Return the `Background` of this process; None if it was not started in the background."""
    descriptor = os.environ.pop(_DESCRIPTOR, None)
    if descriptor is None:
        return Background() if os.environ.get(_PROCESS) == str(os.getpid()) else None
    os.environ[_PROCESS] = str(os.getpid())
    fd = int(descriptor)
    os.set_inheritable(fd, False)
    return Background(fd)


def start(argv: Sequence[str], directory: str | None, quiet: bool) -> int:
    """Run `argv` in the background, in `directory`, and wait until the worker has started.

    Returns 0 if it has, else its exit code. Raises `ConfigError` when the program cannot be run.
    """
    # Imported here: a worker imports this module too, before a green pool has patched these two.
    import subprocess
    import tempfile

    # A second fork would only keep a terminal that is opened later from controlling the process; no worker opens one.
    # With one fork the new process stays our child until it has started, so its exit status can be reported.
    read, write = os.pipe()
    with tempfile.TemporaryFile() as output, open(read, "rb", buffering=0) as reports:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(write,),
                start_new_session=True,
                cwd=directory,
                env=os.environ | {_DESCRIPTOR: str(write)},
            )
        except OSError as error:
            raise ConfigError(f"the worker cannot be run with {argv[0]} (--executable): {error.strerror}") from None
        finally:
            os.close(write)
        try:
            message = _wait(reports, child)
        except KeyboardInterrupt:
            child.terminate()
            raise
        _copy_output(output)
    if "node" not in message:
        return _report_failure(message, child.wait())
    if not quiet:
        log = message["logfile"]
        where = f"its log is {log}" if log else "its log is discarded (--logfile names a file)"
        sys.stdout.write(f"{message['node']} runs in the background as process {child.pid}; {where}\n")
    # Keeps Popen from warning that the child still runs: it is meant to outlive this process.
    child.returncode = 0
    return exitcodes.OK


def _wait(reports: IO[bytes], child: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the child's report; empty if the child ends without one."""
    ended = False
    while not ended:
        # Checked before the pipe, so that a report sent just before the end is still read. The pipe's end alone is no
        # sign of the end: children of a killed worker may hold it open for a moment.
        ended = child.poll() is not None
        readable, _, _ = select.select([reports], [], [], 0 if ended else _POLL_INTERVAL)
        if readable and (text := reports.read(65536)):
            message: dict[str, Any] = msgspec.json.decode(text)
            return message
        if readable:
            child.wait()
    return {}


def _copy_output(output: IO[bytes]) -> None:
    output.seek(0)
    if text := output.read().decode(errors="replace"):
        sys.stderr.write(text)
        sys.stderr.flush()


def _report_failure(message: Mapping[str, Any], code: int) -> int:
    """Print why the worker did not start; return the exit code."""
    if "error" in message:
        sys.stderr.write(f"framework: error: {message['error']}\n")
    elif code < 0:
        name = signal.Signals(-code).name
        sys.stderr.write(f"framework: error: the worker was killed by {name} before it had started\n")
    return code if code > 0 else exitcodes.SOFTWARE
