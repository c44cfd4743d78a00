"""Administration: counts and purges the messages of queues."""

from __future__ import annotations

from collections.abc import Iterable

from framework.api.transport import Peeked, Queue
from framework_drivers.sqlite.database import Database
from framework_transports.sqlite.parking import create


def sizes(database: Database, queues: Iterable[Queue]) -> dict[str, int | None]:
    """Return how many messages wait in each queue; None for a queue that does not exist."""
    found: dict[str, int | None] = {}
    with database.read() as connection:
        for queue in queues:
            row = connection.execute("SELECT id FROM framework_queues WHERE name = ?", (queue.name,)).fetchone()
            if row is None:
                found[queue.name] = None
                continue
            (found[queue.name],) = connection.execute(
                "SELECT count(*) FROM framework_messages WHERE queue = ? AND owner IS NULL", row
            ).fetchone()
    return found


def parked(database: Database, queues: Iterable[Queue]) -> dict[str, int]:
    """Return how many messages of each queue are parked."""
    create(database.path, database.busy_timeout)
    with database.read() as connection:
        return {
            queue.name: connection.execute(
                "SELECT count(*) FROM framework_parked WHERE queue = (SELECT id FROM framework_queues WHERE name = ?)",
                (queue.name,),
            ).fetchone()[0]
            for queue in queues
        }


def peek(database: Database, queue: Queue, limit: int, *, parked: bool) -> list[Peeked]:
    """Return the first waiting or parked messages of `queue`."""
    if parked:
        create(database.path, database.busy_timeout)
        chosen = "payload, due FROM framework_parked WHERE true", "due, id"
    else:
        chosen = "payload, NULL FROM framework_messages WHERE owner IS NULL", "priority, id"
    with database.read() as connection:
        rows = connection.execute(
            f"SELECT {chosen[0]} AND queue = (SELECT id FROM framework_queues WHERE name = ?) "
            f"ORDER BY {chosen[1]} LIMIT ?",
            (queue.name, limit),
        ).fetchall()
    return [Peeked(payload, due) for payload, due in rows]


def purge(database: Database, queue: Queue) -> int:
    """Drop waiting and parked messages of `queue`, but no unacknowledged ones; return how many there were."""
    create(database.path, database.busy_timeout)
    with database.write() as connection:
        return sum(
            connection.execute(
                f"DELETE FROM {table} AND queue = (SELECT id FROM framework_queues WHERE name = ?)", (queue.name,)
            ).rowcount
            for table in ("framework_messages WHERE owner IS NULL", "framework_parked WHERE true")
        )
