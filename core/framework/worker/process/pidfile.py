"""The pidfile: created exclusively, one worker a file; a stale file is replaced.

A file is stale when its process has ended. It is also stale when another program, started after the file was written,
has the same pid: after a reboot, and in containers, the system assigns the same low pids again.
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

#: Index of the process's start time in the fields of `_stat`.
_START_TIME: Final = 19
#: Seconds by which the start time computed from /proc may be wrong.
_CLOCK_SLACK: Final = 2.0


class PidfileTaken(FrameworkError):
    """Another live process has the pidfile, or it cannot be written."""

    exit_code = exitcodes.CANT_CREATE


class Pidfile:
    """A file that contains this process's pid while the worker runs."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._taken = False

    def take(self) -> None:
        """Create the file. Raises `PidfileTaken` when another live process has it, or it cannot be written."""
        for _attempt in range(2):
            try:
                fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                self._remove_stale()
                continue
            except OSError as error:
                raise PidfileTaken(f"the pidfile {self.path} cannot be written: {error.strerror}") from error
            try:
                with os.fdopen(fd, "w") as file:
                    file.write(f"{os.getpid()}\n")
            except OSError as error:  # a full disk
                self.path.unlink(missing_ok=True)
                raise PidfileTaken(f"the pidfile {self.path} cannot be written: {error.strerror}") from error
            self._taken = True
            return
        raise PidfileTaken(f"the pidfile {self.path} was just created by another process: try again")

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
        """Remove the file, if it still contains this process's pid."""
        if self._taken and _read(self.path) == os.getpid():
            self.path.unlink(missing_ok=True)
        self._taken = False


def holder(path: str | os.PathLike[str]) -> int | None:
    """Return the pid of the live process that has the pidfile `path`; None: no process has it."""
    pid = _read(Path(path))
    if pid is None or pid <= 0 or not _is_alive(pid) or _is_other_program(pid, Path(path)):
        return None
    return pid


def watch(pid: int) -> Callable[[], bool]:
    """Return a function that returns whether the current process `pid` still runs.

    A worker removes its pidfile a moment before it ends, and the system may assign its pid to another process.
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
    # A zombie, which has ended but was not reaped, can still be signalled.
    return _stat(pid)[:1] != ["Z"]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty without such a file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_other_program(pid: int, path: Path) -> bool:
    """Return whether `pid` cannot have written `path`: it is another program, started after the file was written."""
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
    # Both conditions: the clock may have been set meanwhile, and a worker may have changed its process title.
    return b"framework" not in command and began > written + _CLOCK_SLACK
