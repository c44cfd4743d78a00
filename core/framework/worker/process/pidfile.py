"""The pidfile: created exclusively, one worker a file; a stale file is replaced.

A worker keeps its file open and locked while it runs. The pid alone does not identify it: after a reboot, and in
containers, the system assigns the same low pids again. A file that nobody has locked, such as one that another program
wrote, is stale when its process has ended or started after the file was written.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
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
#: Attempts to take a file, and seconds between them: those who check a file lock it for a moment.
_ATTEMPTS: Final = 20
_ATTEMPT_INTERVAL: Final = 0.05


class PidfileTaken(FrameworkError):
    """Another live process has the pidfile, or it cannot be written."""

    exit_code = exitcodes.CANT_CREATE


class Pidfile:
    """A file that contains this process's pid while the worker runs."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = -1

    def take(self) -> None:
        """Create the file and lock it. Raises `PidfileTaken` when another process has it, or it cannot be written."""
        try:
            for _attempt in range(_ATTEMPTS):
                if self._create():
                    # A forked process that outlives the worker would keep the lock.
                    os.register_at_fork(after_in_child=self._close)
                    return
                if not self._remove_stale():
                    time.sleep(_ATTEMPT_INTERVAL)
        except OSError as error:
            raise PidfileTaken(f"the pidfile {self.path} cannot be written: {error.strerror}") from error
        raise PidfileTaken(
            f"the pidfile {self.path} is locked by a process of another container or machine: "
            "stop that worker, or give this one another --pidfile"
        )

    def _create(self) -> bool:
        """Create and lock the file; return False if it exists."""
        try:
            fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(fd, b"%d\n" % os.getpid())
        except OSError:  # a full disk
            self.path.unlink(missing_ok=True)
            os.close(fd)
            raise
        # Another worker may have removed the file before it was locked.
        if _lock(fd, fcntl.LOCK_EX) and _is_open_at(fd, self.path):
            self._fd = fd
            return True
        os.close(fd)
        return False

    def _remove_stale(self) -> bool:
        """Remove the file if nobody has locked it; return whether it is gone."""
        pid = holder(self.path)
        if pid is not None and pid != os.getpid():
            raise PidfileTaken(
                f"the pidfile {self.path} belongs to process {pid}, which is running: "
                "stop that worker, or give this one another --pidfile"
            )
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            if not _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
            if _is_open_at(fd, self.path):
                logger.warning("Stale pidfile exists - Removing it.")
                self.path.unlink(missing_ok=True)
            return True
        finally:
            os.close(fd)

    def release(self) -> None:
        """Remove the file, if it still contains this process's pid."""
        if self._fd >= 0 and _read(self.path) == os.getpid():
            self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def holder(path: str | os.PathLike[str]) -> int | None:
    """Return the pid of the live process that has the pidfile `path`; None: no process has it."""
    file = Path(path)
    pid = _read(file)
    if pid is None or pid <= 0 or not _is_alive(pid):
        return None
    has_file = _has_open(pid, file) if _is_locked(file) else not _started_after(pid, file)
    return pid if has_file else None


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


def _lock(fd: int, operation: int) -> bool:
    """Lock an open file; return False if another process has locked it."""
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.debug("A pidfile cannot be locked: %s", error)  # a file system without locks
    return True


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not _lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False


def _is_open_at(fd: int, path: Path) -> bool:
    """Return whether the open file `fd` is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _has_open(pid: int, path: Path) -> bool:
    """Return whether `pid` has the file at `path` open, or may have: the system does not show its files."""
    try:
        file = path.stat()
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return True
    for descriptor in descriptors:
        # Descriptors come and go meanwhile.
        with contextlib.suppress(OSError):
            if os.path.samestat(descriptor.stat(), file):
                return True
    return False


def _started_after(pid: int, path: Path) -> bool:
    """Return whether the process `pid` started after `path` was written, and so cannot have written it."""
    try:
        booted = next(
            float(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")
        )
        began = booted + int(_stat(pid)[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        return began > path.stat().st_mtime + _CLOCK_SLACK
    except (OSError, IndexError, StopIteration):
        return False
