"""Housekeeping: cleans up after dead consumers and mailboxes.

1. Requeues the messages of consumers that died, or whose lease lapsed, to the front of their queues, counted.
2. Drops the boxes of dead mailboxes with their mail, and boxes that were not emptied for a minute (the mailbox of a
   stopped process subscribes again when it finds its box missing).
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable
from typing import Final

from framework_drivers.sqlite.database import Database
from framework_drivers.sqlite.doorbell import Ringer
from framework_transports.sqlite.publish import drop_boxes
from framework_transports.sqlite.schema import CONSUMER_BELL, MAILBOX_BELL
from framework_transports.sqlite.topology import drop_auto_delete

logger = logging.getLogger(__name__)

#: Seconds after which a box with unread mail is dropped.
MAIL_TTL: Final = 60.0


def requeue_all(connection: sqlite3.Connection, consumers: Iterable[int]) -> int:
    """Requeue all messages of `consumers`, counted; return how many."""
    return sum(
        connection.execute(
            "UPDATE framework_messages SET owner = NULL, deliveries = deliveries + 1 WHERE owner = ?", (consumer,)
        ).rowcount
        for consumer in consumers
    )


def unregister(connection: sqlite3.Connection, consumer: int) -> None:
    """Remove `consumer`, unless it has unacknowledged messages."""
    gone = connection.execute(
        "DELETE FROM framework_consumers WHERE id = :consumer "
        "AND NOT EXISTS (SELECT 1 FROM framework_messages WHERE owner = :consumer)",
        {"consumer": consumer},
    )
    if gone.rowcount:
        drop_auto_delete(connection, (consumer,))


def _is_lapsed(now: float, lease: float, deadline: float) -> bool:
    # A deadline further ahead than any renewal is from before a restart of the machine.
    return deadline < now or deadline > now + lease + 1.0


def reap(database: Database, ringer: Ringer) -> int:
    """Clean up after dead consumers and mailboxes; return how many messages were requeued."""
    with database.read() as connection:
        consumers = connection.execute("SELECT id, bell, lease, deadline FROM framework_consumers").fetchall()
    now = time.monotonic()
    gone = [row for row in consumers if _is_lapsed(now, row[2], row[3]) or ringer.is_dead(CONSUMER_BELL, row[1])]
    reap_boxes(database, ringer)
    if not gone:
        return 0
    with database.write() as connection:
        # A consumer is dead unless it has renewed its lease meanwhile; another process may have removed it first.
        dead = [
            consumer
            for consumer, _, _, deadline in gone
            if connection.execute(
                "DELETE FROM framework_consumers WHERE id = ? AND deadline = ?", (consumer, deadline)
            ).rowcount
        ]
        requeued = requeue_all(connection, dead)
        drop_auto_delete(connection, dead)
    for consumer, bell, _, _ in gone:
        if consumer in dead and ringer.is_dead(CONSUMER_BELL, bell):
            ringer.remove(CONSUMER_BELL, bell)
    if requeued:
        logger.warning("Put back %d messages that %d workers left unacknowledged", requeued, len(dead))
    return requeued


def reap_boxes(database: Database, ringer: Ringer) -> None:
    """Drop the boxes of dead mailboxes, and boxes with unread mail older than `MAIL_TTL`."""
    with database.read() as connection:
        bells = {row[0] for row in connection.execute("SELECT bell FROM framework_boxes")}
        now = time.monotonic()
        gone = {
            row[0]
            for row in connection.execute(
                "SELECT b.bell FROM framework_boxes b JOIN framework_mail m "
                "ON m.id = (SELECT min(id) FROM framework_mail WHERE box = b.id) "
                "WHERE m.arrived NOT BETWEEN ? AND ?",
                (now - MAIL_TTL, now + 1.0),
            )
        }
    gone.update(bell for bell in bells - gone if ringer.is_dead(MAILBOX_BELL, bell))
    drop_boxes(database, ringer, gone)
