"""The table of parked messages.

1. `park` moves unacknowledged messages to it, `unpark` moves due messages back. A message keeps its id, so that it is
   at the front of its queue again: it is older than the messages there.
2. `next_due` returns the next due time.
3. `parked_under` finds messages by their keys, and `recall` moves them back, reserved for a consumer.

Times are on the wall clock, because they must survive a restart of the machine. The table is a separate part of the
broker's file, so that older files stay usable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
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
#: Due messages that one transaction moves to each queue, at most.
BATCH: Final = 500

_PARK: Final = (
    # CROSS fixes the join order: SQLite would else scan all unacknowledged messages for each message to park.
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

#: One look in the index for each queue in which messages are parked, however many queues there are.
_DUE_TIMES: Final = (
    "WITH RECURSIVE parked (queue) AS (SELECT min(queue) FROM framework_parked UNION ALL "
    "SELECT (SELECT min(queue) FROM framework_parked WHERE queue > parked.queue) FROM parked WHERE queue IS NOT NULL) "
    "SELECT queue, (SELECT min(due) FROM framework_parked WHERE queue = parked.queue) FROM parked "
    "WHERE queue IS NOT NULL"
)

_encode = msgspec.json.Encoder().encode


def create(path: str, busy_timeout: float, on_full: Callable[[], object] | None = None) -> None:
    """Create the table if it is missing; call `on_full` if the disk is full. Raises `ConnectionLost`."""
    database = Database(
        path, part=PART, version=VERSION, schema=SCHEMA, synchronous="normal", busy_timeout=busy_timeout
    )
    database.on_full = on_full
    database.open()
    database.close()


def park(connection: sqlite3.Connection, consumer: int, parks: Iterable[tuple[int, float, str]]) -> None:
    """Park messages of `consumer`, each given by its id, its due time (s since the epoch) and its key."""
    chosen = (_encode(list(parks)).decode(), consumer)
    connection.execute(_PARK, chosen)
    connection.execute(_PARKED, chosen)


def unpark(connection: sqlite3.Connection, queues: Collection[int], now: float) -> int:
    """Move due messages back to `queues`, at most `BATCH` each; return how many."""
    ids = [
        row[0]
        for queue, due in _due_times(connection, queues)
        if due <= now
        for row in connection.execute(
            "SELECT id FROM framework_parked WHERE queue = ? AND due <= ? ORDER BY due LIMIT ?", (queue, now, BATCH)
        )
    ]
    if ids:
        connection.execute(_UNPARK, (_encode(ids).decode(),))
        connection.execute(_UNPARKED, (_encode(ids).decode(),))
    return len(ids)


def parked_under(connection: sqlite3.Connection, queues: Collection[int], keys: Sequence[str]) -> list[int]:
    """Return the ids of the messages of `queues` that are parked under `keys`."""
    return [
        row[0]
        for row in connection.execute(
            "SELECT id, queue FROM framework_parked WHERE key IN (SELECT value FROM json_each(?))",
            (_encode(keys).decode(),),
        )
        if row[1] in queues
    ]


def recall(connection: sqlite3.Connection, consumer: int, ids: Sequence[int]) -> list[tuple[int, int, int, int, bytes]]:
    """Reserve those of the messages `ids` that are still parked for `consumer`.

    Returns the priority, id, queue, deliveries, and payload of each.
    """
    chosen = _encode(ids).decode()
    rows = connection.execute(_RECALL, (consumer, chosen)).fetchall()
    connection.execute(_UNPARKED, (chosen,))
    return rows


def next_due(connection: sqlite3.Connection, queues: Collection[int]) -> float | None:
    """Return the next due time of a message parked for `queues` (s since the epoch); None: nothing is parked."""
    return min((due for _, due in _due_times(connection, queues)), default=None)


def _due_times(connection: sqlite3.Connection, queues: Collection[int]) -> list[tuple[int, float]]:
    """Return each of `queues` in which messages are parked, with its next due time."""
    return [row for row in connection.execute(_DUE_TIMES) if row[0] in queues]
