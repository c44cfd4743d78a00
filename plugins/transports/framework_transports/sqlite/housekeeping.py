"""What the dead have left behind.

1. Loans of consumers that died, or whose lease lapsed, go back to the front of their queues, counted.
2. Boxes of mailboxes that died vanish with their mail; so do those whose owner has not emptied them for a
   minute (one that was merely stopped subscribes again when it finds its box gone).
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
from framework_transports.sqlite.topology import forget_auto_delete

logger = logging.getLogger(__name__)

#: Seconds that mail may wait to be fetched.
MAIL_PATIENCE: Final = 60.0


def put_back(connection: sqlite3.Connection, consumers: Iterable[int]) -> int:
    """Put back everything that `consumers` have on loan; return how much that was."""
    return sum(
        connection.execute(
            "UPDATE framework_messages SET owner = NULL, deliveries = deliveries + 1 WHERE owner = ?",
            (consumer,),
        ).rowcount
        for consumer in consumers
    )


def unregister(connection: sqlite3.Connection, consumer: int) -> None:
    """Forget `consumer`, unless it has something on loan."""
    gone = connection.execute(
        "DELETE FROM framework_consumers WHERE id = :consumer "
        "AND NOT EXISTS (SELECT 1 FROM framework_messages WHERE owner = :consumer)",
        {"consumer": consumer},
    )
    if gone.rowcount:
        forget_auto_delete(connection, (consumer,))


def _is_lapsed(now: float, lease: float, deadline: float) -> bool:
    # Further ahead than a renewal could have put it: the machine was started again since.
    return deadline < now or deadline > now + lease + 1.0


def reap(database: Database, ringer: Ringer) -> int:
    """Look for dead consumers and mailboxes; return how many messages were put back."""
    with database.read() as connection:
        consumers = connection.execute("SELECT id, bell, lease, deadline FROM framework_consumers").fetchall()
    now = time.monotonic()
    gone = [row for row in consumers if _is_lapsed(now, row[2], row[3]) or ringer.is_dead(CONSUMER_BELL, row[1])]
    reap_boxes(database, ringer)
    if not gone:
        return 0
    with database.write() as connection:
        # Unless it has renewed its lease in between, or somebody else was faster.
        dead = [
            consumer
            for consumer, _, _, deadline in gone
            if connection.execute(
                "DELETE FROM framework_consumers WHERE id = ? AND deadline = ?", (consumer, deadline)
            ).rowcount
        ]
        returned = put_back(connection, dead)
        forget_auto_delete(connection, dead)
    for consumer, bell, _, _ in gone:
        if consumer in dead and ringer.is_dead(CONSUMER_BELL, bell):
            ringer.remove(CONSUMER_BELL, bell)
    if returned:
        logger.warning("Put back %d messages that %d workers left on loan", returned, len(dead))
    return returned


def reap_boxes(database: Database, ringer: Ringer) -> None:
    """Drop the boxes of dead mailboxes, and those that nobody empties."""
    with database.read() as connection:
        bells = {row[0] for row in connection.execute("SELECT bell FROM framework_boxes")}
        now = time.monotonic()
        gone = {
            row[0]
            for row in connection.execute(
                "SELECT b.bell FROM framework_boxes b JOIN framework_mail m "
                "ON m.id = (SELECT min(id) FROM framework_mail WHERE box = b.id) "
                "WHERE m.arrived NOT BETWEEN ? AND ?",
                (now - MAIL_PATIENCE, now + 1.0),
            )
        }
    gone.update(bell for bell in bells - gone if ringer.is_dead(MAILBOX_BELL, bell))
    drop_boxes(database, ringer, gone)
