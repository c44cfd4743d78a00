"""The mailbox: receives and publishes fan-out messages, for remote control, replies and events.

1. Subscribes with a box in the tables, which exists as long as the mailbox's doorbell answers.
2. Receives all mail in its boxes.
3. Sends like a producer, but drops unroutable messages, and commits without fsync.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from framework.api.transport import Mailbox, Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing, Payload
from framework_drivers.sqlite.database import Database
from framework_drivers.sqlite.doorbell import Doorbell, Ringer
from framework_transports.sqlite.housekeeping import reap_boxes
from framework_transports.sqlite.publish import Batch, drop_boxes
from framework_transports.sqlite.schema import MAILBOX_BELL
from framework_transports.sqlite.topology import SqliteRouter, declare_exchange

#: Messages of one `receive`, at most; the doorbell rings again for more.
_BATCH: Final = 500


class SqliteMailbox(Mailbox):
    """A mailbox stored in the broker's file."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pid = os.getpid()
        self._router = SqliteRouter()
        self._ringer = Ringer(database.path)
        self._bell = Doorbell(database.path, MAILBOX_BELL, armed=True)
        self._subscriptions: list[Queue] = []
        #: The subscribed exchange of each box, by the box's id.
        self._boxes: dict[int, str] = {}
        reap_boxes(database, self._ringer)

    def subscribe(self, queue: Queue) -> None:
        """Receive messages routed to `queue`: its exchange's, and those for its name on the default exchange."""
        if any(known == queue for known in self._subscriptions):
            return
        self._open_box(queue)
        self._subscriptions.append(queue)

    def _open_box(self, queue: Queue) -> None:
        with self._database.write() as connection:
            if queue.exchange.name:
                declare_exchange(connection, queue.exchange)
            (box,) = connection.execute(
                "INSERT INTO framework_boxes (name, exchange, routing_key, bell) VALUES (?, ?, ?, ?) RETURNING id",
                (queue.name, queue.exchange.name, queue.routing_key, self._bell.token),
            ).fetchone()
        self._boxes[box] = queue.exchange.name

    def receive(self) -> Sequence[tuple[str, Payload]]:
        """Return the messages that have arrived, oldest first."""
        self._bell.drain()
        with self._database.read() as connection:
            mine = "SELECT id FROM framework_boxes WHERE bell = ?"
            present = {row[0] for row in connection.execute(mine, (self._bell.token,))}
            waiting = connection.execute(
                f"SELECT id FROM framework_mail WHERE box IN ({mine}) ORDER BY id LIMIT ?", (self._bell.token, _BATCH)
            ).fetchall()
        if len(present) < len(self._boxes):
            self._reopen(present)
        if not waiting:
            return ()
        with self._database.write() as connection:
            rows = connection.execute(
                "DELETE FROM framework_mail WHERE id <= ? AND box IN "
                "(SELECT id FROM framework_boxes WHERE bell = ?) RETURNING id, box, payload",
                (waiting[-1][0], self._bell.token),
            ).fetchall()
        if len(waiting) == _BATCH:
            self._ringer.ring(MAILBOX_BELL, (self._bell.token,))
        rows.sort()
        return [(self._boxes[box], payload) for _, box, payload in rows if box in self._boxes]

    def _reopen(self, present: set[int]) -> None:
        """Open boxes again that were dropped while this process was stopped."""
        for box in [known for known in self._boxes if known not in present]:
            del self._boxes[box]
        kept = list(self._boxes.values())
        for queue in self._subscriptions:
            if queue.exchange.name in kept:
                kept.remove(queue.exchange.name)
            else:
                self._open_box(queue)

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish; messages without a receiver are dropped without a write transaction."""
        self.reach(messages)

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish, and return how many living mailboxes received a message."""
        if not messages:
            return 0
        with self._database.read() as connection:
            self._router.refresh(connection)
            wanted = [
                message
                for message in messages
                if any(self._router.targets(connection, message.exchange, message.routing_key)[:2])
            ]
        if not wanted:
            return 0
        batch = Batch(wanted)
        with self._database.write() as connection:
            self._router.refresh(connection)
            batch.insert(connection, self._router, required=False)
        return batch.wake(self._ringer, self._database)

    def fileno(self) -> int:
        """Return the doorbell's descriptor."""
        return self._bell.fileno()

    def close(self) -> None:
        """Drop the boxes with their mail, and disconnect. A forked child leaves the parent's boxes alone."""
        if self._pid == os.getpid():
            # Closed already, or the file is out of reach: others drop the boxes, as the doorbell no longer answers.
            with suppress(ConnectionLost):
                drop_boxes(self._database, self._ringer, (self._bell.token,))
        self._bell.close()
        self._ringer.close()
        self._database.close()
