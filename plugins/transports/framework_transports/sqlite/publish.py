"""Putting messages into the tables: what the producer and the mailbox share.

1. Route each message, inside the caller's transaction.
2. Insert one row for each queue and each box, all in one go.
3. Remember whom to wake after the commit.
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

#: What a mail's box and a message's payload may hold; SQLite's own limit is a little higher.
_LARGEST = 900_000_000


class Batch:
    """Messages on their way into the tables, encoded but not yet routed."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        # Before the transaction: encoding is slow, and whoever waits for the file's lock should not wait
        # for it.
        self._envelopes = [to_envelope(message, str(uuid4())) for message in messages]
        self._messages = messages
        self._queued = False
        self._bells: set[str] = set()
        for envelope in self._envelopes:
            if len(envelope) > _LARGEST:
                raise PublishRefused(f"a message of {len(envelope)} bytes is more than the broker takes ({_LARGEST})")

    def insert(self, connection: sqlite3.Connection, router: SqliteRouter, *, required: bool) -> None:
        """Insert everything.

        With `required`, a persistent message that nothing takes is not dropped: one that names a queue makes that
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
        """Wake those concerned; call it after the commit. Subscribers found dead are removed with their mail.

        Return how many subscribers there are.
        """
        if self._queued:
            ringer.ring_all(CONSUMER_BELL)
        if not self._bells:
            return 0
        dead = list(ringer.ring(MAILBOX_BELL, self._bells))
        drop_boxes(database, ringer, dead)
        return len(self._bells) - len(dead)


def drop_boxes(database: Database, ringer: Ringer, bells: Iterable[str]) -> None:
    """Remove the boxes of dead mailboxes, named by their `bells`, with their mail."""
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
