"""The state file (``--statedb``): revoked ids that outlive the worker.

1. A small SQLite database: what was written survives the death of the process at any moment.
2. A file that cannot be written, a full disk above all, is told once; ids are then kept in memory, and all of them
   written when that works again.
3. A damaged file is set aside under another name, with a line in the log; a file of something else ends the start.
   Nothing in it is ever run or unpickled.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from typing import Final

from framework import exitcodes
from framework.exceptions import ConfigError

logger = logging.getLogger(__name__)

#: Says whose database it is, at a fixed place of the file.
APPLICATION: Final = 0x66_77_73_74
_MAGIC: Final = b"SQLite format 3\0"
_SCHEMA: Final = "CREATE TABLE revoked (id TEXT PRIMARY KEY, since REAL NOT NULL) STRICT"
#: An id that is known becomes the youngest: rows are numbered as they are written.
_ADD: Final = "INSERT OR REPLACE INTO revoked VALUES (?, ?)"
#: Seconds to wait for another process that writes; the worker's loop waits as long.
_BUSY: Final = 1.0
#: Seconds between two attempts to write a file that could not be written.
_RETRY: Final = 5.0


class StateFileUnusable(ConfigError):
    """The state file belongs to something else, or cannot be made."""

    exit_code = exitcodes.CANT_CREATE


class StateFile:
    """Keeps ids and the time at which each was revoked. Opened by one thread, used by another."""

    def __init__(self, path: str) -> None:
        """Open the file at `path`, or make it. Raises `StateFileUnusable`."""
        self.path = os.path.abspath(path)
        #: It lacks something that is known: when to try again, on the monotonic clock. None: it lacks nothing.
        self._behind: float | None = None
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            self._connection = self._open_after(error)

    # ------------------------------------------------------------ opening

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if application != APPLICATION:
                if application or tables:
                    raise StateFileUnusable(_foreign(self.path))
                self._create(connection)
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:  # undone and raised again
            connection.close()
            raise
        return connection

    @staticmethod
    def _create(connection: sqlite3.Connection) -> None:
        # All at once, before anything is written beside the file: one that is there is whole, and known as ours.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(_SCHEMA)
        connection.execute("COMMIT")

    def _open_after(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """Make sense of a file that cannot be opened: a foreign one is left alone, a damaged one makes way."""
        try:
            with open(self.path, "rb") as file:
                start = file.read(len(_MAGIC))
        except OSError as reason:
            raise StateFileUnusable(f"the state file {self.path} cannot be used: {reason.strerror}") from error
        if not _MAGIC.startswith(start):
            raise StateFileUnusable(_foreign(self.path)) from None
        if isinstance(error, sqlite3.OperationalError):
            raise StateFileUnusable(f"the state file {self.path} cannot be used: {error}") from error
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.replace(self.path + suffix, aside + suffix)
        logger.error(
            "The state file %s is damaged (%s): it was set aside as %s, and what was revoked before is forgotten",
            self.path,
            error,
            aside,
        )
        return self._open()

    # ------------------------------------------------------------ reading and writing

    def load(self) -> list[tuple[str, float]]:
        """Return the ids with their times, oldest first."""
        return self._connection.execute("SELECT id, since FROM revoked ORDER BY rowid").fetchall()

    def add(self, task_ids: Iterable[str], since: float, known: Mapping[str, float]) -> None:
        """Write that `task_ids` were revoked at `since`; `known`: everything that should be in the file by then."""
        self._write(lambda: self._connection.executemany(_ADD, ((task_id, since) for task_id in task_ids)), known)

    def remove(self, task_ids: Iterable[str], known: Mapping[str, float]) -> None:
        """Write that `task_ids` are forgotten; `known` as in `add`."""
        rows = ((task_id,) for task_id in task_ids)
        self._write(lambda: self._connection.executemany("DELETE FROM revoked WHERE id = ?", rows), known)

    def _write(self, change: Callable[[], object], known: Mapping[str, float]) -> None:
        if self._behind is not None and time.monotonic() < self._behind:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._behind is None:
                change()
            else:
                self._connection.execute("DELETE FROM revoked")
                self._connection.executemany(_ADD, known.items())
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.rollback()
            if self._behind is None:
                logger.error(
                    "The state file %s cannot be written (%s): what is revoked is kept in memory until it can",
                    self.path,
                    error,
                )
            self._behind = time.monotonic() + _RETRY
            return
        if self._behind is not None:
            self._behind = None
            logger.info("The state file %s can be written again, and has everything that is revoked", self.path)

    def close(self, known: Mapping[str, float]) -> None:
        """Write what the file lacks of `known`, if that can be, and let go of it."""
        if self._behind is not None:
            self._behind = 0.0
            self._write(lambda: None, known)
        with suppress(sqlite3.Error), closing(self._connection):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _foreign(path: str) -> str:
    return (
        f"{path} is no state file of this program (Celery's cannot be taken over), and is left as it is: "
        "name another file with --statedb, or move this one away"
    )
