"""A worker in the background.

1. `start`, in the process that the user started, runs the same command line once more: in a session of its own, away
   from the terminal. It waits until that process has begun or ended, and passes on what it said until then.
2. `Background` is the new process's side: `leave` gives up the parent's streams, `begun` and `failed` tell it the end.
3. HUP replaces the program and keeps the process: `join` knows it again by its id, and it does not detach twice.
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

#: Names the descriptor on which the parent waits.
_DESCRIPTOR: Final = "FRAMEWORK_BACKGROUND_FD"
#: Names the process that runs in the background already.
_PROCESS: Final = "FRAMEWORK_BACKGROUND_PID"
#: Seconds between two looks whether the new process has ended without a word.
_GLANCE: Final = 0.05


def redirect(path: str | None) -> None:
    """Have descriptors 1 and 2 of this process write to the file `path`; None: nowhere. Raises `ConfigError`."""
    try:
        fd = os.open(path or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"the log file {path} cannot be opened: {error.strerror}") from error
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    for standard in (1, 2):
        os.dup2(fd, standard)
    os.close(fd)


class Background:
    """The side of the process that has been started in the background."""

    def __init__(self, fd: int = -1) -> None:
        """`fd`: where a parent waits; -1: nobody does."""
        self._fd = fd
        self._left = False

    def leave(self, logfile: str | None) -> None:
        """Write to `logfile` from now on, or nowhere; what went wrong before is the parent's to show."""
        redirect(logfile)
        self._left = True

    def begun(self, node: str, logfile: str | None) -> None:
        """Tell the parent that the worker has begun: it ends."""
        self._tell({"node": node, "logfile": logfile})

    def failed(self, text: str) -> None:
        """Tell the parent why the worker will not begin; before `leave` it has read so already."""
        if self._left:
            self._tell({"error": text})

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._fd >= 0:
            # Whoever waited may have been interrupted.
            with contextlib.suppress(OSError):
                os.write(self._fd, msgspec.json.encode(message))
            os.close(self._fd)
            self._fd = -1


def join() -> Background | None:
    """Return this process's side if it has been started in the background, else None."""
    descriptor = os.environ.pop(_DESCRIPTOR, None)
    if descriptor is None:
        return Background() if os.environ.get(_PROCESS) == str(os.getpid()) else None
    os.environ[_PROCESS] = str(os.getpid())
    fd = int(descriptor)
    os.set_inheritable(fd, False)
    return Background(fd)


def start(argv: Sequence[str], directory: str | None, quiet: bool) -> int:
    """Run `argv` in the background, in `directory`, and wait until it has begun.

    Returns 0 then, else its exit code. Raises `ConfigError` when there is no such program.
    """
    # Before the interpreter is patched a worker imports this module too: a green pool is to find these unloaded.
    import subprocess
    import tempfile

    # A session of its own is what a second fork is for, but for a terminal opened later: no worker opens one. With one
    # fork the new process stays our child until it has begun, and how it ended can be told.
    read, write = os.pipe()
    with tempfile.TemporaryFile() as said, open(read, "rb", buffering=0) as news:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
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
            message = _wait(news, child)
        except KeyboardInterrupt:
            child.terminate()
            raise
        _pass_on(said)
    if "node" not in message:
        return _explain(message, child.wait())
    if not quiet:
        log = message["logfile"]
        where = f"its log is {log}" if log else "its log goes nowhere (--logfile names a file)"
        sys.stdout.write(f"{message['node']} runs in the background as process {child.pid}; {where}\n")
    # It outlives us, as it should.
    child.returncode = 0
    return exitcodes.OK


def _wait(news: IO[bytes], child: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what the child has to say; nothing when it ends without a word."""
    ended = False
    while not ended:
        # Looked at first: what it said before it ended is then there to be read. The pipe alone would not do: children
        # of a worker that was killed may hold its other end for a moment.
        ended = child.poll() is not None
        readable, _, _ = select.select([news], [], [], 0 if ended else _GLANCE)
        if readable and (text := news.read(65536)):
            message: dict[str, Any] = msgspec.json.decode(text)
            return message
        if readable:
            child.wait()
    return {}


def _pass_on(said: IO[bytes]) -> None:
    said.seek(0)
    if text := said.read().decode(errors="replace"):
        sys.stderr.write(text)
        sys.stderr.flush()


def _explain(message: Mapping[str, Any], code: int) -> int:
    """Say why the worker did not begin; return the exit code."""
    if "error" in message:
        sys.stderr.write(f"framework: error: {message['error']}\n")
    elif code < 0:
        name = signal.Signals(-code).name
        sys.stderr.write(f"framework: error: the worker was killed by {name} before it had begun\n")
    return code if code > 0 else exitcodes.SOFTWARE
