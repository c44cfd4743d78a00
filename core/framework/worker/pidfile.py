"""The pidfile: one worker per file, created exclusively, stale ones taken over."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from framework import exitcodes
from framework.exceptions import FrameworkError

logger = logging.getLogger(__name__)


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
        pid = self._read()
        if pid is not None and pid != os.getpid() and _is_alive(pid):
            raise PidfileTaken(
                f"the pidfile {self.path} belongs to process {pid}, which is running: "
                "stop that worker, or give this one another --pidfile"
            )
        logger.warning("Stale pidfile exists - Removing it.")
        self.path.unlink(missing_ok=True)

    def _read(self) -> int | None:
        try:
            return int(self.path.read_text().strip())
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Remove the file, if it is still ours."""
        if self._taken and self._read() == os.getpid():
            self.path.unlink(missing_ok=True)
        self._taken = False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
