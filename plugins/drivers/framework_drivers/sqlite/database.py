"""A SQLite file that several processes and threads use at once: for plugins that store things without a server.

1. `database_path` turns a ``sqlite:`` URL into a path.
2. `Database` is one connection to such a file: write-ahead log, one write transaction at a time, tables
   made on opening.
3. Whatever SQLite raises becomes `ConnectionLost` with one sentence that names the file and the remedy.
4. A fork never inherits a connection: SQLite's locks do not survive one. All are closed just before, and open
   again when next used, on either side.

What survives: a committed transaction survives the end of any process, `SIGKILL` included. ``synchronous="full"``
(one fsync a commit) survives a power cut too; with ``"normal"`` the last commits before a power cut may be undone,
newest first, and the file stays sound.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Final, Literal
from urllib.parse import unquote

import msgspec

from framework.exceptions import ConfigError, ConnectionLost, PluginUnavailable, TransportError
from framework_drivers.masking import masked

Synchronous = Literal["full", "normal"]

#: The file used when a URL names none, in the current directory.
DEFAULT_FILE: Final = "framework.db"

#: The first release with STRICT tables (and long after RETURNING).
_OLDEST: Final = (3, 37)

#: Which versions of whose tables a file holds: several plugins may share it.
_VERSIONS: Final = (
    "CREATE TABLE IF NOT EXISTS framework_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT"
)

#: Seconds between two tries to begin a transaction while another process writes. Random, so that waiters do
#: not march in step.
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


def database_path(url: str, default: str = DEFAULT_FILE) -> str:
    """Return the absolute path that `url` names.

    ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` for `default` in the current
    directory. Raises `ConfigError` when it is none of these.
    """
    _, separator, rest = url.partition("://")
    if not separator or (rest and not rest.startswith("/")):
        raise ConfigError(
            f"{masked(url)!r} names no SQLite file: write sqlite:///relative/path.db, sqlite:////absolute/path.db, "
            f"or sqlite:// for {default} in the current directory"
        )
    name = unquote(rest[1:])
    if "?" in rest or name == ":memory:" or "\0" in name:
        raise ConfigError(
            f"{masked(url)!r} is no plain file: write sqlite:///path.db (memory:// keeps everything in memory)"
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
    """One connection to the file at `path`, opened when first used. Any thread may call.

    `part` and `version` name the tables that `schema` (SQL that creates them) describes. `busy_timeout` is
    in seconds: how long a transaction waits for another process's.
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
        #: Another file was found in the place of the one that was opened: what is known of that is not true of this.
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
        """Wait for the right to write.

        SQLite's own waiting sleeps for up to 100 ms between two tries, so that a busy writer can keep
        another out for seconds.
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
        """Open now rather than when first used. Raises `ConnectionLost`."""
        with self.read():
            pass

    def close(self) -> None:
        """Close; harmless when closed. Whatever is done afterwards raises `ConnectionLost`."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def __del__(self) -> None:
        # Python 3.13 warns of a connection that is merely forgotten; a result store of a client often is.
        self._disconnect()

    # ------------------------------------------------------------ the connection

    def _connected(self) -> sqlite3.Connection:
        connection = self._connection
        if connection is None:
            return self._connect()
        if self._pid != os.getpid():
            # Forked by something that runs no hooks of Python's. Closing it would take the parent's locks
            # away.
            _inherited.append(connection)
            return self._connect()
        try:
            found = os.stat(self.path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._file:
            # Going on would write into a file that nobody else will ever see.
            self._disconnect()
            self.replaced = True
            raise ConnectionLost(f"{self.path} was removed or replaced while it was in use")
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
        connection = sqlite3.connect(
            self.path, timeout=self.busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._enter_wal(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # Some builds overwrite deleted rows with zeros; messages come and go by the thousand.
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
        # Only the very first opener changes the mode, and SQLite does not wait for the lock which that needs.
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
        remedy = _REMEDIES.get(code & 0xFF) if code is not None else None
        if remedy is None:
            return ConnectionLost(f"{self.path} cannot be used: {error}")
        return ConnectionLost(f"{self.path} {remedy.format(busy=self.busy_timeout)}")

    # ------------------------------------------------------------ forks

    def _before_fork(self) -> None:
        self._lock.acquire()
        self._disconnect()

    def _after_fork(self) -> None:
        self._lock.release()


def _roll_back(connection: sqlite3.Connection) -> None:
    # A commit that failed (disk full) leaves the transaction open too. And an exception may be thrown into this thread
    # at any point (a time limit): what is left open then would lock everybody out.
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


#: Every database that has ever connected, for the fork hooks; weak, so that it keeps nothing alive.
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_databases_lock = threading.Lock()
#: Those held by the fork that is under way.
_forking: list[Database] = []
#: Connections of a parent process, kept from being collected, hence closed, in this one.
_inherited: list[sqlite3.Connection] = []


def _before_fork() -> None:
    # A database registers before it connects, so that none can slip in between the last look and the fork:
    # the lock of the register is kept until the fork is over.
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
