"""Results in a SQLite file, for any number of processes of a machine.

1. Keeps one document a task, with its expiry; does not replace the document of a final state, see `_RANKS`.
2. Waits without polling: arms a doorbell, reads, sleeps until a writer rings, then reads only new documents.
3. Deletes expired documents, once a minute at most, while storing.
4. Keeps chords and saved groups: see `framework_results.sqlite_chords`.

URLs: `sqlite:///relative.db`, `sqlite:////absolute.db`, or `sqlite://` for ``framework.db`` in the current directory.
The embedded broker can use the same file: it has other tables.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from framework.api.result_store import Record, ResultStoreContext, ResultStoreTraits
from framework.exceptions import TimeoutError  # noqa: A004 - the one that the contract names
from framework_drivers.sqlite.database import FileOptions, database_path
from framework_drivers.sqlite.doorbell import Doorbell, Ringer
from framework_results.sqlite_chords import SqliteChords

_BELL: Final = "r"
#: Seconds between two reads without a ring: a writer that dies after its commit does not ring.
_RECHECK_INTERVAL: Final = 1.0
#: Seconds between two deletions of expired documents, and the most documents that one deletes.
_DELETE_INTERVAL: Final = 60.0
_DELETE_MAX: Final = 10_000

#: `number` grows with every change, so that a waiting client can select new documents. `rank`: see `_RANKS`.
_SCHEMA: Final = """
CREATE TABLE framework_results (
    number INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL UNIQUE, rank INTEGER NOT NULL,
    expires REAL, document BLOB NOT NULL
) STRICT;
CREATE INDEX framework_results_expires ON framework_results (expires) WHERE expires IS NOT NULL"""

_STORE: Final = (
    # REPLACE inserts a new row with a new number.
    "INSERT OR REPLACE INTO framework_results (task_id, rank, expires, document) "
    "SELECT :id, :rank, :expires, :document WHERE NOT EXISTS (SELECT 1 FROM framework_results "
    "WHERE task_id = :id AND rank > :replaces AND (expires IS NULL OR expires > :now))"
)
#: Rank of a document by state, other states 0. SUCCESS is never replaced; FAILURE and REVOKED not by RETRY.
_RANKS: Final = {"SUCCESS": 2, "FAILURE": 1, "REVOKED": 1}
_CURRENT: Final = "(expires IS NULL OR expires > ?)"
_encode_ids = msgspec.json.Encoder().encode


class SqliteStoreOptions(FileOptions, kw_only=True):
    """The table ``[result_store.sqlite]``."""


class SqliteStore(SqliteChords):
    """The SQLite result store. Any thread may call its methods, parent and child after a fork, too."""

    options_type = SqliteStoreOptions
    traits = ResultStoreTraits(chords=True)

    def __init__(self, url: str, options: msgspec.Struct, context: ResultStoreContext) -> None:
        super().__init__(url, options, context)
        self.path = database_path(url)
        self._database = self._open("results", _SCHEMA)
        self._chords = self._open_chords()
        self._ringer: Ringer | None = None
        self._delete_at = 0.0

    @property
    def display_url(self) -> str:
        """The URL."""
        return f"sqlite:///{self.path}"

    # ------------------------------------------------------------ writing

    def store(self, records: Sequence[Record]) -> None:
        """Keep all of `records` in one transaction, then wake the waiting clients."""
        if not records:
            return
        now = time.time()
        rows = [
            {
                "id": record.task_id,
                "rank": _RANKS.get(record.state, 0),
                # The highest rank that it replaces: a RETRY replaces no final state.
                "replaces": 0 if record.state == "RETRY" else 1,
                "expires": self._until(self.context.lifetime(record.state), now),
                "document": record.document,
                "now": now,
            }
            for record in records
        ]
        with self._database.write() as connection:
            connection.executemany(_STORE, rows)
            self._delete_expired(connection, now)
        ringer = self._ringer
        if ringer is None:
            ringer = self._ringer = Ringer(self.path)
        for token in ringer.ring_all(_BELL):
            ringer.remove(_BELL, token)

    def _delete_expired(self, connection: sqlite3.Connection, now: float) -> None:
        if time.monotonic() < self._delete_at:
            return
        self._delete_at = time.monotonic() + _DELETE_INTERVAL
        connection.execute(
            "DELETE FROM framework_results WHERE number IN "
            "(SELECT number FROM framework_results WHERE expires <= ? LIMIT ?)",
            (now, _DELETE_MAX),
        )

    def forget(self, task_ids: Sequence[str]) -> None:
        """Drop the documents."""
        with self._database.write() as connection:
            connection.execute(
                "DELETE FROM framework_results WHERE task_id IN (SELECT value FROM json_each(?))",
                (_encode_ids(list(task_ids)).decode(),),
            )

    # ------------------------------------------------------------ reading

    def fetch(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the documents that exist and have not expired."""
        with self._database.read() as connection:
            return _documents(connection, task_ids)

    def wait(
        self,
        task_ids: Iterable[str],
        timeout: float | None,
        is_ready: Callable[[bytes], bool],
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Yield each document once it is ready."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._wait(dict.fromkeys(task_ids), timeout, deadline, is_ready, on_interval)

    def _wait(
        self,
        missing: dict[str, None],
        timeout: float | None,
        deadline: float | None,
        is_ready: Callable[[bytes], bool],
        on_interval: Callable[[], object] | None,
    ) -> Iterator[tuple[str, bytes]]:
        seen: int | None = None
        bell: Doorbell | None = None
        try:
            while missing:
                seen, found = self._changes(missing, seen)
                for task_id, document in found.items():
                    if is_ready(document):
                        del missing[task_id]
                        yield task_id, document
                if not missing:
                    return
                if bell is None:
                    bell = Doorbell(self.path, _BELL, armed=True)
                    # A document may have become ready before the bell was armed.
                    continue
                pause = _RECHECK_INTERVAL
                if deadline is not None:
                    pause = min(pause, deadline - time.monotonic())
                    if pause <= 0:
                        raise TimeoutError(f"{len(missing)} result(s) did not arrive within {timeout:g} s")
                bell.wait(pause)
                bell.drain()
                if on_interval is not None:
                    on_interval()
        finally:
            # Runs when the caller drops the generator early, too.
            if bell is not None:
                bell.close()

    def _changes(self, missing: Mapping[str, None], seen: int | None) -> tuple[int, dict[str, bytes]]:
        """Return the highest number, and the documents of `missing` with a number above `seen` (None: all)."""
        with self._database.read() as connection:
            if seen is None:
                # Read the number first: a document stored meanwhile is then read twice, not missed.
                (newest,) = connection.execute("SELECT coalesce(max(number), 0) FROM framework_results").fetchone()
                return newest, _documents(connection, list(missing))
            rows = connection.execute(
                "SELECT number, task_id FROM framework_results WHERE number > ? ORDER BY number", (seen,)
            ).fetchall()
            if not rows:
                return seen, {}
            return rows[-1][0], _documents(connection, [task_id for _, task_id in rows if task_id in missing])

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        former = (self._database, self._chords)
        self._database, self._chords = self._open("results", _SCHEMA), self._open_chords()
        for database in former:
            database.close()
        ringer, self._ringer = self._ringer, None
        if ringer is not None:
            ringer.close()


def _documents(connection: sqlite3.Connection, task_ids: Sequence[str]) -> dict[str, bytes]:
    if not task_ids:
        return {}
    if len(task_ids) == 1:
        chosen, argument = "task_id = ?", task_ids[0]
    else:
        chosen, argument = "task_id IN (SELECT value FROM json_each(?))", _encode_ids(task_ids).decode()
    return dict(
        connection.execute(
            f"SELECT task_id, document FROM framework_results WHERE {chosen} AND {_CURRENT}", (argument, time.time())
        )
    )
