"""The pidfile: one worker per file, created exclusively, stale ones taken over.

A file is stale when its process has ended, and also when its number has gone to a process of another program that began
after the file was written: after a restart of the machine, or in a container, the same few numbers are given out again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from framework import exitcodes
from framework.exceptions import FrameworkError

logger = logging.getLogger(__name__)

#: Which of the fields of `_stat` is the time at which the process began.
_START_TIME: Final = 19
#: Seconds by which the kernel's idea of when a process began may be off.
_CLOCK_SLACK: Final = 2.0


class PidfileTaken(FrameworkError):
    """Another process, which is alive, has the pidfile."""

    exit_code = exitcodes.CANT_CREATE


class Pidfile:
    """A file that holds our pid while we run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._taken = False

    def take(self) -> None:
        """Write our pid. Raises `PidfileTaken` when another live process has the file, or it cannot be written."""
        for _attempt in range(2):
            try:
                fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                self._remove_stale()
                continue
            except OSError as error:
                raise PidfileTaken(f"the pidfile {self.path} cannot be written: {error.strerror}") from error
            with os.fdopen(fd, "w") as file:
                file.write(f"{os.getpid()}\n")
            self._taken = True
            return
        raise PidfileTaken(f"the pidfile {self.path} is being taken by another process at this moment")

    def _remove_stale(self) -> None:
        pid = holder(self.path)
        if pid is not None and pid != os.getpid():
            raise PidfileTaken(
                f"the pidfile {self.path} belongs to process {pid}, which is running: "
                "stop that worker, or give this one another --pidfile"
            )
        logger.warning("Stale pidfile exists - Removing it.")
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Remove the file, if it is still ours."""
        if self._taken and _read(self.path) == os.getpid():
            self.path.unlink(missing_ok=True)
        self._taken = False


def holder(path: str | os.PathLike[str]) -> int | None:
    """Return the living process that has the pidfile `path`, None when there is none or no file."""
    pid = _read(Path(path))
    if pid is None or pid <= 0 or not _is_alive(pid) or _is_stranger(pid, Path(path)):
        return None
    return pid


def watch(pid: int) -> Callable[[], bool]:
    """Return what says whether the process that is `pid` now is still there.

    The pidfile goes a moment before its process, and the number may be given to another one.
    """
    since = _stat(pid)[_START_TIME:][:1]
    return lambda: _is_alive(pid) and _stat(pid)[_START_TIME:][:1] == since


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    # One that has ended, whose parent has not noticed, can still be signalled.
    return _stat(pid)[:1] != ["Z"]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; nothing where there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_stranger(pid: int, path: Path) -> bool:
    """Say whether `pid` certainly is not what wrote `path`: another program, and younger than the file."""
    fields = _stat(pid)
    try:
        written = path.stat().st_mtime
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        booted = next(
            float(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")
        )
        began = booted + int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, StopIteration):
        return False
    # Both: the clock may have been set since, and a worker may have been given another title.
    return b"framework" not in command and began > written + _CLOCK_SLACK
