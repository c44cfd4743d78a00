"""Exchanges, queues and bindings in the broker's tables.

1. `declare` creates a queue, its exchange and its binding if they do not exist.
2. `SqliteRouter` routes messages, with a cache until the topology changes.
3. `drop_auto_delete` removes auto-delete queues without consumers.

All functions run inside a transaction of the caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from framework.api.transport import Exchange, Queue
from framework.exceptions import TransportError
from framework_transports._routing import TYPES, routes


def declare_exchange(connection: sqlite3.Connection, exchange: Exchange) -> None:
    """Create `exchange`. Raises `TransportError` when it exists with another type, or the type is unknown."""
    if exchange.type not in TYPES:
        raise TransportError(
            f"exchange {exchange.name!r} has type {exchange.type!r}, which this broker does not support: "
            f"use one of {', '.join(sorted(TYPES))}"
        )
    row = connection.execute("SELECT type FROM framework_exchanges WHERE name = ?", (exchange.name,)).fetchone()
    if row is None:
        connection.execute("INSERT INTO framework_exchanges VALUES (?, ?)", (exchange.name, exchange.type))
    elif row[0] != exchange.type:
        raise TransportError(
            f"exchange {exchange.name!r} is of type {row[0]!r} in the broker and {exchange.type!r} in the settings: "
            "use the broker's type, or another name"
        )


def declare_name(connection: sqlite3.Connection, name: str, *, auto_delete: bool = False) -> int:
    """Create the queue `name`, without a binding, if it does not exist; return its id."""
    row = connection.execute("SELECT id FROM framework_queues WHERE name = ?", (name,)).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO framework_queues (name, auto_delete) VALUES (?, ?) RETURNING id", (name, auto_delete)
        ).fetchone()
    return int(row[0])


def declare(connection: sqlite3.Connection, queue: Queue) -> int:
    """Create `queue`, its exchange and its binding if they do not exist; return the queue's id."""
    queue_id = declare_name(connection, queue.name, auto_delete=queue.auto_delete or queue.exclusive)
    if queue.exchange.name:
        declare_exchange(connection, queue.exchange)
        # The triggers must not fire for an existing binding: they would invalidate every producer's cache.
        connection.execute(
            "INSERT INTO framework_bindings SELECT :exchange, :key, :queue WHERE NOT EXISTS (SELECT 1 "
            "FROM framework_bindings WHERE exchange = :exchange AND routing_key = :key AND queue = :queue)",
            {"exchange": queue.exchange.name, "key": queue.routing_key, "queue": queue_id},
        )
    return queue_id


def is_declared(connection: sqlite3.Connection, queue: Queue) -> bool:
    """Return whether `declare` would change nothing; needs no write transaction."""
    row = connection.execute(
        "SELECT q.id, b.queue, e.type FROM framework_queues q "
        "LEFT JOIN framework_bindings b ON b.queue = q.id AND b.exchange = :exchange AND b.routing_key = :key "
        "LEFT JOIN framework_exchanges e ON e.name = :exchange WHERE q.name = :queue",
        {"queue": queue.name, "exchange": queue.exchange.name, "key": queue.routing_key},
    ).fetchone()
    if row is None:
        return False
    return not queue.exchange.name or (row[1] is not None and row[2] == queue.exchange.type)


def drop_auto_delete(connection: sqlite3.Connection, consumers: Iterable[int], queue: int | None = None) -> None:
    """End the subscriptions of `consumers` (to `queue` alone, if given); drop auto-delete queues without others."""
    for consumer in consumers:
        left = connection.execute(
            "DELETE FROM framework_subscriptions WHERE consumer = ? AND queue = coalesce(?, queue) RETURNING queue",
            (consumer, queue),
        ).fetchall()
        for (queue_id,) in left:
            dropped = connection.execute(
                "DELETE FROM framework_queues WHERE id = :queue AND auto_delete "
                "AND NOT EXISTS (SELECT 1 FROM framework_subscriptions WHERE queue = :queue)",
                {"queue": queue_id},
            )
            if dropped.rowcount:
                connection.execute("DELETE FROM framework_bindings WHERE queue = ?", (queue_id,))
                connection.execute("DELETE FROM framework_messages WHERE queue = ?", (queue_id,))
                connection.execute("DELETE FROM framework_parked WHERE queue = ?", (queue_id,))


class MailboxRow(NamedTuple):
    """A subscription of a mailbox."""

    id: int
    bell: str


class Targets(NamedTuple):
    """The queues and boxes that receive a message."""

    queues: tuple[int, ...]
    boxes: tuple[MailboxRow, ...]
    #: The exchange's type; None: the exchange does not exist.
    exchange_type: str | None


class SqliteRouter:
    """Routes messages of one connection; caches targets, and checks the topology's version once a transaction."""

    def __init__(self) -> None:
        self._version = 0
        self._connection: sqlite3.Connection | None = None
        self._known: dict[tuple[str, str], Targets] = {}

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Call this first in every transaction."""
        (version,) = connection.execute("SELECT version FROM framework_topology").fetchone()
        # Clients choose routing keys, so the cache needs a limit.
        # A new connection may have found a new file, which counts from the beginning.
        if version != self._version or connection is not self._connection or len(self._known) > 10_000:
            self._version = version
            self._connection = connection
            self._known.clear()

    def forget(self) -> None:
        """Clear the cache at the next `refresh`: a transaction that changed the topology was rolled back."""
        self._version = 0

    def targets(self, connection: sqlite3.Connection, exchange: str, routing_key: str) -> Targets:
        """Return the targets of a message to `exchange` with `routing_key`."""
        known = self._known.get((exchange, routing_key))
        if known is None:
            known = self._known[exchange, routing_key] = self._find(connection, exchange, routing_key)
        return known

    def _find(self, connection: sqlite3.Connection, exchange: str, routing_key: str) -> Targets:
        if not exchange:
            queues = connection.execute("SELECT id FROM framework_queues WHERE name = ?", (routing_key,))
            boxes = connection.execute("SELECT id, bell FROM framework_boxes WHERE name = ?", (routing_key,))
            return Targets(tuple(row[0] for row in queues), tuple(MailboxRow(*row) for row in boxes), "direct")
        found = connection.execute("SELECT type FROM framework_exchanges WHERE name = ?", (exchange,)).fetchone()
        if found is None:
            return Targets((), (), None)
        bindings = connection.execute(
            "SELECT queue, routing_key FROM framework_bindings WHERE exchange = ?", (exchange,)
        ).fetchall()
        subscriptions = connection.execute(
            "SELECT id, bell, routing_key FROM framework_boxes WHERE exchange = ?", (exchange,)
        ).fetchall()
        # A queue gets one copy, however many of its bindings match.
        return Targets(
            tuple(dict.fromkeys(queue for queue, key in bindings if routes(found[0], key, routing_key))),
            tuple(MailboxRow(box, bell) for box, bell, key in subscriptions if routes(found[0], key, routing_key)),
            found[0],
        )
