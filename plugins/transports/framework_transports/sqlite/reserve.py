"""The reserve: a file beside the broker's that keeps room on its disk for consumers.

1. Fetching and acknowledging write, so a disk that waiting messages have filled could not be drained without it.
2. `keep` allocates it, when the broker's file is opened and at heartbeats, if the disk has room. `leave` removes it
   when nobody uses the file any more, as SQLite does with its own files.
3. A consumer that finds the disk full calls `free`: the file is emptied, and the consumer can go on.
4. While it is empty, `refuses` keeps producers from taking the room, until the messages that were run have left some.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from typing import Final

logger = logging.getLogger(__name__)

#: The size in bytes: the write-ahead log, of about 4 MiB, is copied into the file before its own room is used again.
SIZE: Final = 8 << 20


class Reserve:
    """The reserve of one broker file; any number of processes may use it."""

    def __init__(self, path: str) -> None:
        self._broker = path
        self._path = f"{path}-reserve"
        #: Whether it was freed, when `keep` or `free` was called last.
        self.freed = False

    def _size(self) -> int | None:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return None

    def _has_room(self) -> bool:
        disk = os.statvfs(os.path.dirname(self._path))
        return disk.f_bavail * disk.f_frsize >= 2 * SIZE

    def leave(self) -> None:
        """Remove the reserve if nobody uses the broker's file, unless a later `keep` might find no room for it."""
        with suppress(OSError):
            if not os.path.exists(f"{self._broker}-wal") and self._has_room():
                os.unlink(self._path)

    def keep(self) -> None:
        """Allocate the reserve if it is missing or was freed, and the disk has room for two of it."""
        size = self._size()
        self.freed = size == 0
        if size or not hasattr(os, "posix_fallocate"):
            return
        with suppress(OSError):
            if not self._has_room():
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, SIZE)
                self.freed = False
            except OSError:
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)

    def free(self) -> None:
        """Free the room: the disk is full."""
        self.freed = True
        if self._size():
            with suppress(OSError):
                os.truncate(self._path, 0)
                logger.warning(
                    "The disk of %s is full: freed the %d MiB of %s, so that waiting messages can be run. Nothing more "
                    "is accepted until there is room: free some, or let workers run what waits",
                    self._broker,
                    SIZE >> 20,
                    self._path,
                )

    def refuses(self, connection: sqlite3.Connection) -> bool:
        """Return whether a producer must not write: the reserve was freed, and the broker's file has no room inside."""
        if self._size() != 0:
            return False
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        return bool(pages * page_size < SIZE)
