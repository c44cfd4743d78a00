"""Messages that are parked: a table beside the queues, by the time at which they come due.

1. `park` moves what is on loan there, `unpark` moves what is due back. A message keeps its id, so that it is at the
   front of its queue again: it is older than what waits there.
2. `next_due` says when the next one comes due.
3. `parked_under` finds messages by their keys, and `recall` moves them back, on loan.

Times are wall-clock, because they outlive the machine's start. The table is a part of its own of the broker's file, so
that older files need not be made anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from framework_drivers.sqlite.database import Database

PART: Final = "parking"
VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE framework_parked (
    id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, due REAL NOT NULL, priority INTEGER NOT NULL,
    deliveries INTEGER NOT NULL, key TEXT, payload BLOB NOT NULL
) STRICT;
CREATE INDEX framework_parked_by_time ON framework_parked (queue, due);
CREATE INDEX framework_parked_by_key ON framework_parked (key) WHERE key IS NOT NULL"""
#: Messages that one transaction puts back in each queue.
BATCH: Final = 500

_PARK: Final = (
    # CROSS keeps the order: by itself SQLite goes through all that is on loan for each message to park.
    "INSERT INTO framework_parked SELECT m.id, m.queue, json_extract(p.value, '$[1]'), m.priority, m.deliveries, "
    "nullif(json_extract(p.value, '$[2]'), ''), m.payload "
    "FROM json_each(?) p CROSS JOIN framework_messages m ON m.id = json_extract(p.value, '$[0]') WHERE m.owner = ?"
)
_PARKED: Final = (
    "DELETE FROM framework_messages WHERE id IN (SELECT json_extract(value, '$[0]') FROM json_each(?)) AND owner = ?"
)
_UNPARK: Final = (
    "INSERT INTO framework_messages (id, queue, priority, deliveries, payload) SELECT id, queue, priority, deliveries, "
    "payload FROM framework_parked WHERE id IN (SELECT value FROM json_each(?))"
)
_RECALL: Final = (
    "INSERT INTO framework_messages (id, queue, priority, owner, deliveries, payload) SELECT id, queue, priority, ?, "
    "deliveries, payload FROM framework_parked WHERE id IN (SELECT value FROM json_each(?)) "
    "RETURNING priority, id, queue, deliveries, payload"
)
_UNPARKED: Final = "DELETE FROM framework_parked WHERE id IN (SELECT value FROM json_each(?))"

_encode = msgspec.json.Encoder().encode


def create(path: str, busy_timeout: float) -> None:
    """Make the table where it is missing. Raises `ConnectionLost`."""
    database = Database(
        path, part=PART, version=VERSION, schema=SCHEMA, synchronous="normal", busy_timeout=busy_timeout
    )
    database.open()
    database.close()


def park(connection: sqlite3.Connection, consumer: int, parks: Iterable[tuple[int, float, str]]) -> None:
    """Park what `consumer` has on loan: a message's id, the time until which, and its key."""
    chosen = (_encode(list(parks)).decode(), consumer)
    connection.execute(_PARK, chosen)
    connection.execute(_PARKED, chosen)


def unpark(connection: sqlite3.Connection, queues: Iterable[int], now: float) -> int:
    """Put what is due back into `queues`, a bounded number at a time; return how much that was."""
    ids = [
        row[0]
        for queue in queues
        for row in connection.execute(
            "SELECT id FROM framework_parked WHERE queue = ? AND due <= ? ORDER BY due LIMIT ?", (queue, now, BATCH)
        )
    ]
    if ids:
        connection.execute(_UNPARK, (_encode(ids).decode(),))
        connection.execute(_UNPARKED, (_encode(ids).decode(),))
    return len(ids)


def parked_under(connection: sqlite3.Connection, queues: Collection[int], keys: Sequence[str]) -> list[int]:
    """Return the ids of what is parked under `keys` in `queues`."""
    return [
        row[0]
        for row in connection.execute(
            "SELECT id, queue FROM framework_parked WHERE key IN (SELECT value FROM json_each(?))",
            (_encode(keys).decode(),),
        )
        if row[1] in queues
    ]


def recall(connection: sqlite3.Connection, consumer: int, ids: Sequence[int]) -> list[tuple[int, int, int, int, bytes]]:
    """Have `consumer` take on loan what is still parked of `ids`.

    Returns of each message its priority, id, queue, deliveries, and payload.
    """
    chosen = _encode(ids).decode()
    rows = connection.execute(_RECALL, (consumer, chosen)).fetchall()
    connection.execute(_UNPARKED, (chosen,))
    return rows


def next_due(connection: sqlite3.Connection, queues: Iterable[int]) -> float | None:
    """Return when the next message that is parked for `queues` comes due (s since the epoch); None: there is none."""
    found = [
        connection.execute("SELECT min(due) FROM framework_parked WHERE queue = ?", (queue,)).fetchone()[0]
        for queue in queues
    ]
    return min((due for due in found if due is not None), default=None)
