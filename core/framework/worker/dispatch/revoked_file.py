"""The state file (``--statedb``): revoked ids that outlive the worker.

1. Stores the ids in a small SQLite database, which survives the death of the process at any moment.
2. While the file cannot be written, for example on a full disk, logs that once, keeps the ids in memory, and writes all
   of them later.
3. Renames a file that cannot be read, and logs that: the worker starts without it, and the other workers send it their
   ids. Refuses to start with the database of another program. Nothing in the file is ever executed or unpickled.
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

#: SQLite application id in the file header; marks the file as this program's.
APPLICATION: Final = 0x66_77_73_74
_SCHEMA: Final = "CREATE TABLE revoked (id TEXT PRIMARY KEY, since REAL NOT NULL) STRICT"
#: REPLACE gives a known id a new row number, which makes it the youngest.
_ADD: Final = "INSERT OR REPLACE INTO revoked VALUES (?, ?)"
_LOAD: Final = "SELECT id, since FROM revoked ORDER BY rowid"
#: Errors of SQLite that say nothing about what is in the file.
_UNUSABLE: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PERM,
)
#: Seconds to wait for a lock of another process; the worker's loop waits as long.
_BUSY: Final = 1.0
#: Seconds between two attempts to write a file that could not be written.
_RETRY: Final = 5.0


class StateFileUnusable(ConfigError):
    """The state file belongs to another program or cannot be created."""

    exit_code = exitcodes.CANT_CREATE


class StateFile:
    """A file of revoked ids with the time of each revoke. One thread opens it, another uses it."""

    def __init__(self, path: str) -> None:
        """Open the file at `path`, or create it. Raises `StateFileUnusable`."""
        self.path = os.path.abspath(path)
        #: Time of the next attempt (monotonic) while the file lacks ids; None: the file is complete.
        self._retry_at: float | None = None
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
            (check,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if check != "ok":
                raise sqlite3.DatabaseError(check)
            connection.execute(_LOAD).fetchone()
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:  # closed, then raised again
            connection.close()
            raise
        return connection

    @staticmethod
    def _create(connection: sqlite3.Connection) -> None:
        # One transaction: an existing file always has both the application id and the table.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(_SCHEMA)
        connection.execute("COMMIT")

    def _open_after(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """Rename a file that cannot be read, and create a new one. Raises `StateFileUnusable` where no file can be."""
        reason: object = error
        try:
            with open(self.path, "rb") as file:
                file.read(1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as unusable:
            raise StateFileUnusable(f"the state file {self.path} cannot be used: {unusable.strerror}") from error
        except OSError as unreadable:
            reason = unreadable.strerror
        else:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _UNUSABLE:
                raise StateFileUnusable(f"the state file {self.path} cannot be used: {error}") from error
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            os.replace(self.path, aside)
        except OSError as failed:
            raise StateFileUnusable(
                f"the state file {self.path} can neither be read ({reason}) nor renamed ({failed.strerror})"
            ) from error
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.replace(self.path + suffix, aside + suffix)
        logger.error(
            "The state file %s is damaged, or no state file of this program (%s): renamed to %s. The worker starts "
            "without the revoked ids in it, and asks the other workers for theirs",
            self.path,
            reason,
            aside,
        )
        return self._open()

    # ------------------------------------------------------------ reading and writing

    def load(self) -> list[tuple[str, float]]:
        """Return the ids with the time of each revoke, oldest first."""
        return self._connection.execute(_LOAD).fetchall()

    def add(self, task_ids: Iterable[str], since: float, known: Mapping[str, float]) -> None:
        """Write `task_ids`, revoked at `since`; `known`: all ids the file must then hold, with their times."""
        self._write(lambda: self._connection.executemany(_ADD, ((task_id, since) for task_id in task_ids)), known)

    def remove(self, task_ids: Iterable[str], known: Mapping[str, float]) -> None:
        """Delete `task_ids`; `known` as in `add`."""
        rows = ((task_id,) for task_id in task_ids)
        self._write(lambda: self._connection.executemany("DELETE FROM revoked WHERE id = ?", rows), known)

    def _write(self, change: Callable[[], object], known: Mapping[str, float]) -> None:
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._retry_at is None:
                change()
            else:
                self._connection.execute("DELETE FROM revoked")
                self._connection.executemany(_ADD, known.items())
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.rollback()
            if self._retry_at is None:
                logger.error(
                    "The state file %s cannot be written (%s): revoked ids are kept in memory until it can",
                    self.path,
                    error,
                )
            self._retry_at = time.monotonic() + _RETRY
            return
        if self._retry_at is not None:
            self._retry_at = None
            logger.info("The state file %s can be written again and holds all revoked ids", self.path)

    def close(self, known: Mapping[str, float]) -> None:
        """Write the missing ids of `known` if possible, and close the file."""
        if self._retry_at is not None:
            self._retry_at = 0.0
            self._write(lambda: None, known)
        with suppress(sqlite3.Error), closing(self._connection):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _foreign(path: str) -> str:
    return (
        f"{path} is not a state file of this program (Celery's format is not supported) and is left unchanged: "
        "name another file with --statedb, or move this one away"
    )
