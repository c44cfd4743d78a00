"""Publishing into the tables, for the producer and the mailbox.

1. Routes each message, inside the caller's transaction.
2. Inserts one row for each queue and each box.
3. Wakes consumers and mailboxes after the commit.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from uuid import uuid4

from framework.exceptions import PublishRefused
from framework.message import Outgoing, to_envelope
from framework_drivers.sqlite.database import Database
from framework_drivers.sqlite.doorbell import Ringer
from framework_transports.sqlite.schema import CONSUMER_BELL, MAILBOX_BELL
from framework_transports.sqlite.topology import SqliteRouter, declare_name

#: The largest payload in bytes; SQLite's own limit is a little higher.
_MAX_SIZE = 900_000_000


class Batch:
    """Encoded messages, to be routed and inserted together."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        # Encoded before the transaction: it is slow, and would keep other processes from the file's lock.
        self._envelopes = [to_envelope(message, str(uuid4())) for message in messages]
        self._messages = messages
        self._queued = False
        self._bells: set[str] = set()
        for envelope in self._envelopes:
            if len(envelope) > _MAX_SIZE:
                raise PublishRefused(f"a message has {len(envelope)} bytes, this broker takes at most {_MAX_SIZE}")

    def insert(self, connection: sqlite3.Connection, router: SqliteRouter, *, required: bool) -> None:
        """Insert all messages.

        With `required`, an unroutable persistent message is not dropped: a message for the default exchange creates its
        queue, as on Redis; any other raises `PublishRefused`.
        """
        rows: list[tuple[int, int, bytes]] = []
        mail: list[tuple[int, float, bytes]] = []
        for message, envelope in zip(self._messages, self._envelopes, strict=True):
            queues, boxes, exchange_type = router.targets(connection, message.exchange, message.routing_key)
            if not queues and not boxes and required and message.delivery_mode == 2:
                queues = self._make_queue(connection, router, message, exchange_type)
            for queue in queues:
                rows.append((queue, message.priority or 0, envelope))
            for box in boxes:
                mail.append((box.id, time.monotonic(), envelope))
                self._bells.add(box.bell)
        if rows:
            self._queued = True
            connection.executemany("INSERT INTO framework_messages (queue, priority, payload) VALUES (?, ?, ?)", rows)
        if mail:
            connection.executemany("INSERT INTO framework_mail (box, arrived, payload) VALUES (?, ?, ?)", mail)

    def _make_queue(
        self, connection: sqlite3.Connection, router: SqliteRouter, message: Outgoing, exchange_type: str | None
    ) -> tuple[int, ...]:
        if "fanout" in (exchange_type, message.exchange_type):
            return ()
        if message.exchange or not message.routing_key:
            known = "which does not exist" if exchange_type is None else "where no queue is bound to it"
            raise PublishRefused(
                f"nothing takes a message with routing key {message.routing_key!r} "
                f"to exchange {message.exchange!r}, {known}: declare a queue for it"
            )
        queue = declare_name(connection, message.routing_key)
        router.refresh(connection)
        return (queue,)

    def wake(self, ringer: Ringer, database: Database) -> int:
        """Wake the receivers, and remove dead mailboxes with their mail; call it after the commit.

        Returns the number of living mailboxes that received a message.
        """
        if self._queued:
            ringer.ring_all(CONSUMER_BELL)
        if not self._bells:
            return 0
        dead = list(ringer.ring(MAILBOX_BELL, self._bells))
        drop_boxes(database, ringer, dead)
        return len(self._bells) - len(dead)


def drop_boxes(database: Database, ringer: Ringer, bells: Iterable[str]) -> None:
    """Remove the boxes of the mailboxes with the doorbells `bells`, with their mail."""
    gone = [(bell,) for bell in bells]
    if not gone:
        return
    with database.write() as connection:
        connection.executemany(
            "DELETE FROM framework_mail WHERE box IN (SELECT id FROM framework_boxes WHERE bell = ?)", gone
        )
        connection.executemany("DELETE FROM framework_boxes WHERE bell = ?", gone)
    for (bell,) in gone:
        if ringer.is_dead(MAILBOX_BELL, bell):
            ringer.remove(MAILBOX_BELL, bell)
