"""A SQLite file that several processes and threads share.

1. `database_path` converts a ``sqlite:`` URL to a path.
2. `Database` is one connection to such a file: with a write-ahead log, one write transaction at a time, and tables
   created on opening.
3. SQLite's errors are raised as `ConnectionLost`, in a sentence with the file and the remedy.
4. A fork never inherits a connection, because SQLite's locks do not survive one. All connections are closed before a
   fork, and opened again at their next use, in both processes.

A committed transaction survives the end of any process, `SIGKILL` included. With ``synchronous="full"`` (one fsync a
commit) it survives a power cut too; with ``"normal"`` a power cut may undo the last commits, but the file stays intact.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Final, Literal
from urllib.parse import unquote

import msgspec

from framework.exceptions import ConfigError, ConnectionLost, PluginUnavailable, TransportError
from framework.server_url import mask

Synchronous = Literal["full", "normal"]

#: The file used when a URL names none, in the current directory.
DEFAULT_FILE: Final = "framework.db"

#: The first release with STRICT tables; RETURNING is older.
_OLDEST: Final = (3, 37)

#: The version of each plugin's tables in the file, which several plugins may share.
_VERSIONS: Final = (
    "CREATE TABLE IF NOT EXISTS framework_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT"
)

#: Seconds between two tries to begin a transaction while another process writes. Random, so that waiting processes do
#: not retry at the same moments.
_RETRY_PAUSE: Final = (0.0002, 0.0008)

#: The primary code of an extended SQLite error code is its low byte.
_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: "stayed locked by another process for {busy:g} s: look for a process that hangs or is stopped",
    sqlite3.SQLITE_LOCKED: "stayed locked by another connection for {busy:g} s: look for a process that hangs",
    sqlite3.SQLITE_FULL: "cannot grow: its disk is full",
    sqlite3.SQLITE_CORRUPT: "is damaged: stop everything that uses it and move it away, or restore a copy",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database: name another file, or move this one away",
    sqlite3.SQLITE_READONLY: "cannot be written: give this user write permission for the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its directory must exist and be readable and writable for this user",
    sqlite3.SQLITE_PERM: "may not be opened by this user: change its permissions",
    sqlite3.SQLITE_IOERR: "cannot be read or written: its disk reports an error",
}
#: Errors that another try does not mend.
_UNFIT: Final = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)


class FileUnfit(ConnectionLost):
    """The file is no database, or its user has no rights; a worker does not start with it."""

    exit_code = ConfigError.exit_code


def database_path(url: str, default: str = DEFAULT_FILE) -> str:
    """Return the absolute path of `url`.

    Forms: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` for `default` in the current
    directory. Raises `ConfigError` for any other.
    """
    _, separator, rest = url.partition("://")
    if not separator or (rest and not rest.startswith("/")):
        raise ConfigError(
            f"{mask(url)!r} names no SQLite file: write sqlite:///relative/path.db, sqlite:////absolute/path.db, "
            f"or sqlite:// for {default} in the current directory"
        )
    name = unquote(rest[1:])
    if "?" in rest or name == ":memory:" or "\0" in name:
        raise ConfigError(
            f"{mask(url)!r} is no plain file: write sqlite:///path.db (memory:// keeps everything in memory)"
        )
    return os.path.abspath(name or default)


class FileOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of everything that is kept in a SQLite file."""

    synchronous: Annotated[
        Synchronous,
        msgspec.Meta(
            description='"full": what was written survives a power cut (one fsync a commit). '
            '"normal": it survives any crash of a process, and a power cut may lose the last ones.'
        ),
    ] = "full"
    busy_timeout: Annotated[
        float,
        msgspec.Meta(ge=0.1, description="Seconds to wait for another process that is writing, before giving up."),
    ] = 10.0


class Database:
    """One connection to the file at `path`, opened at first use. Any thread may call.

    `part` and `version` identify the tables that the SQL `schema` creates. `busy_timeout`: seconds for which a
    transaction waits for another process's.
    """

    def __init__(
        self,
        path: str,
        *,
        part: str,
        version: int,
        schema: str,
        synchronous: Synchronous = "full",
        busy_timeout: float = 10.0,
    ) -> None:
        self.path = path
        self.busy_timeout = busy_timeout
        self._part = part
        self._version = version
        self._schema = schema
        self._synchronous = synchronous
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._pid = 0
        self._closed = False
        #: Called when the disk is full, before the error is raised.
        self.on_full: Callable[[], object] | None = None
        #: The file was removed or replaced: ids and rows of the opened file do not exist in the new one.
        self.replaced = False

    # ------------------------------------------------------------ use

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end of the block, rolled back when it raises."""
        with self._lock:
            try:
                connection = self._connected()
                try:
                    self._begin(connection)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:  # undone and raised again
                    _roll_back(connection)
                    raise
            except sqlite3.Error as error:
                raise self._lost(error) from error

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Begin a write transaction, waiting for the file's lock.

        SQLite's own waiting sleeps for up to 100 ms between two tries, so that a busy writer could lock out another for
        seconds.
        """
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            deadline = time.monotonic() + self.busy_timeout
            while True:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                time.sleep(random.uniform(*_RETRY_PAUSE))
        finally:
            connection.execute(f"PRAGMA busy_timeout = {self.busy_timeout * 1000:.0f}")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection for single SELECTs, each of which sees the latest commit. Takes no lock on the file."""
        with self._lock:
            try:
                yield self._connected()
            except sqlite3.Error as error:
                raise self._lost(error) from error

    def open(self) -> None:
        """Open now rather than at first use. Raises `ConnectionLost`."""
        with self.read():
            pass

    def close(self) -> None:
        """Close; harmless when closed. All later use raises `ConnectionLost`."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def __del__(self) -> None:
        # Python 3.13 warns of an unclosed connection, and clients often do not close their result store.
        self._disconnect()

    # ------------------------------------------------------------ the connection

    def _connected(self) -> sqlite3.Connection:
        connection = self._connection
        if connection is None:
            return self._connect()
        if self._pid != os.getpid():
            # Forked without Python's hooks. Closing the inherited connection would release the parent's locks.
            _inherited.append(connection)
            return self._connect()
        try:
            found = os.stat(self.path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._file:
            # Other processes would never see writes to the old file.
            self._disconnect()
            self.replaced = True
            raise ConnectionLost(f"{self.path} was removed or replaced while in use")
        return connection

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise ConnectionLost(f"the connection to {self.path} is closed")
        if sqlite3.sqlite_version_info < _OLDEST:
            raise PluginUnavailable(
                f"SQLite {sqlite3.sqlite_version} of this Python is too old to keep {self.path}: "
                f"use a Python with SQLite {'.'.join(map(str, _OLDEST))} or later, or a broker of another kind"
            )
        with _databases_lock:
            _databases.add(self)
        with suppress(OSError):
            # Messages and results are for this user; SQLite gives its other files the rights of this one. Never opened
            # if it exists: closing it would release the locks that this process has on it.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=self.busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._enter_wal(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # Some builds overwrite deleted rows with zeros, which costs time for every message.
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            self._create(connection)
            found = os.stat(self.path)
        except BaseException:  # undone and raised again
            connection.close()
            raise
        self._file = (found.st_dev, found.st_ino)
        self._pid = os.getpid()
        self._connection = connection
        return connection

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        # The first process to open the file changes its mode, and SQLite does not wait for the lock that this needs.
        deadline = time.monotonic() + self.busy_timeout
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
                continue
            if mode != "wal":
                raise ConnectionLost(f"{self.path} cannot be shared on this file system: keep it on a local disk")

    def _create(self, connection: sqlite3.Connection) -> None:
        found = None
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'framework_schema'").fetchone():
            found = self._found_version(connection)
        if found is None:
            try:
                self._begin(connection)
                connection.execute(_VERSIONS)
                found = self._found_version(connection)
                if found is None:
                    for statement in self._schema.split(";\n"):
                        connection.execute(statement)
                    connection.execute("INSERT INTO framework_schema VALUES (?, ?)", (self._part, self._version))
                    found = self._version
                connection.execute("COMMIT")
            except BaseException:  # undone and raised again
                _roll_back(connection)
                raise
        if found != self._version:
            raise TransportError(
                f"{self.path} holds version {found} of the {self._part} tables and this release needs version "
                f"{self._version}: use the release that wrote it, or name another file"
            )

    def _found_version(self, connection: sqlite3.Connection) -> int | None:
        row = connection.execute("SELECT version FROM framework_schema WHERE part = ?", (self._part,)).fetchone()
        return None if row is None else int(row[0])

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._pid != os.getpid():
            _inherited.append(connection)
            return
        with suppress(sqlite3.Error):
            connection.close()

    def _lost(self, error: sqlite3.Error) -> ConnectionLost:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF == sqlite3.SQLITE_FULL and self.on_full is not None:
            self.on_full()
        remedy = _REMEDIES.get(code & 0xFF) if code is not None else None
        if remedy is None:
            return ConnectionLost(f"{self.path} cannot be used: {error}")
        kind = FileUnfit if code is not None and code & 0xFF in _UNFIT else ConnectionLost
        return kind(f"{self.path} {remedy.format(busy=self.busy_timeout)}")

    # ------------------------------------------------------------ forks

    def _before_fork(self) -> None:
        self._lock.acquire()
        self._disconnect()

    def _after_fork(self) -> None:
        self._lock.release()


def _roll_back(connection: sqlite3.Connection) -> None:
    # A failed commit (disk full) leaves the transaction open, too. So does an exception raised in this thread at any
    # point (a time limit): an open transaction would lock out all other processes.
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


#: Every database that has connected, for the fork hooks; weak, so that it keeps none alive.
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_databases_lock = threading.Lock()
#: Databases that the current fork has locked.
_forking: list[Database] = []
#: Connections of the parent process, referenced here so that this process never collects, and so closes, them.
_inherited: list[sqlite3.Connection] = []


def _before_fork() -> None:
    # A database registers before it connects, and `_databases_lock` is held until the fork is over, so that none can
    # connect between the last check and the fork.
    while True:
        _databases_lock.acquire()
        missing = [database for database in _databases if database not in _forking]
        if not missing:
            return
        _databases_lock.release()
        for database in missing:
            database._before_fork()
            _forking.append(database)


def _after_fork() -> None:
    while _forking:
        _forking.pop()._after_fork()
    _databases_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
