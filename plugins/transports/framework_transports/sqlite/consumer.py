"""The consumer: reserves messages and settles them, in batches.

1. Registers with a lease, and renews it; requeues messages of dead consumers.
2. Fetches: settles and reserves in one transaction.
3. Arms the doorbell before the last check of an empty queue.
4. Parks messages in another table, and requeues them at the next known due time.
5. On closing, settles, requeues and unregisters; `adopt` moves messages from a lost consumer to this one.

A dead consumer is detected by its doorbell, whose socket refuses connections, within about a second; one that hangs, is
stopped, or whose socket a child has inherited, by its lapsed lease.

Its commits need no fsync: if a power cut undoes the last of them, the messages are redelivered.
"""

from __future__ import annotations

import heapq
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

import msgspec

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost
from framework.message import mark_redelivered, sent_to
from framework_drivers.sqlite.database import Database
from framework_drivers.sqlite.doorbell import Doorbell, Ringer
from framework_transports._leases import LEASE_NOT_RENEWED
from framework_transports.sqlite.delivery import SqliteDelivery
from framework_transports.sqlite.housekeeping import reap, requeue_all, unregister
from framework_transports.sqlite.parking import create, next_due, park, parked_under, recall, unpark
from framework_transports.sqlite.reserve import Reserve
from framework_transports.sqlite.schema import CONSUMER_BELL
from framework_transports.sqlite.topology import declare, drop_auto_delete

logger = logging.getLogger(__name__)

_ids = msgspec.json.Encoder().encode

_DELETE_ACKED = (
    # A message that was requeued because our lease lapsed is deleted, too, unless another consumer has reserved
    # it. Ids are never reused.
    "DELETE FROM framework_messages WHERE id IN (SELECT value FROM json_each(?)) AND (owner = ? OR owner IS NULL)"
)
_REQUEUE = (
    "UPDATE framework_messages SET owner = NULL, deliveries = deliveries + {counted} "
    "WHERE id IN (SELECT value FROM json_each(?)) AND owner = ?"
)
_RESERVE = (
    "UPDATE framework_messages SET owner = ? WHERE id IN ({chosen}) RETURNING priority, id, queue, deliveries, payload"
)
_WAITING = "SELECT {columns} FROM framework_messages WHERE queue = ? AND owner IS NULL ORDER BY priority, id LIMIT ?"
_RESERVE_IN_ONE = _RESERVE.format(chosen=_WAITING.format(columns="id"))
_RESERVE_CHOSEN = _RESERVE.format(chosen="SELECT value FROM json_each(?)")
_WAITING_IN_ONE = _WAITING.format(columns="priority, id")
_GREATEST = f"SELECT max(length(payload)) FROM ({_WAITING.format(columns='payload')})"
#: The queues in which messages wait, at the cost of one look in the index for each: however many queues there are.
_READY_QUEUES = (
    "WITH RECURSIVE ready (queue) AS (SELECT min(queue) FROM framework_messages WHERE owner IS NULL UNION ALL "
    "SELECT (SELECT min(queue) FROM framework_messages WHERE owner IS NULL AND queue > ready.queue) FROM ready "
    "WHERE queue IS NOT NULL) SELECT queue FROM ready WHERE queue IS NOT NULL"
)

#: Bytes of messages that are reserved at once while the disk is full.
_FITTING = 1 << 20
#: Seconds after an outage in which lapsed leases stay untouched: live workers reconnect and renew within this time.
_GRACE = 5.0


class SqliteConsumer(Consumer):
    """Fetches from tables."""

    def __init__(self, database: Database, lease: float) -> None:
        #: Ids of messages to delete, to requeue, and to requeue uncounted, with the next transaction.
        self.acked: list[int] = []
        self.requeued: list[int] = []
        self.released: list[int] = []
        #: Ids of messages to park, each with its due time (s since the epoch) and its key.
        self.parks: list[tuple[int, float, str]] = []
        #: The next due time of a parked message (s since the epoch); `due_at` is the same on the monotonic clock.
        self._due: float | None = None
        self.due_at: float | None = None
        self._database = database
        self._lease = lease
        # At least once a second, whatever the lease: the heartbeat also finds dead consumers, and messages whose
        # producer died before it rang.
        self.heartbeat_interval = min(1.0, lease / 3)
        self._pid = os.getpid()
        self._queues: dict[int, str] = {}
        #: Those for broadcast queues, which only this consumer knows.
        self._own: set[int] = set()
        self._first_queue = 0
        self._seen_version: int | None = None
        self._wake_pending = False
        self._reserve = Reserve(database.path)
        self._reserve.keep()
        database.on_full = self._reserve.free
        self._ringer = Ringer(database.path)
        self._bell = Doorbell(database.path, CONSUMER_BELL, armed=False)
        self._id = 0
        self._renew_at = 0.0
        self._reap_from = 0.0
        create(database.path, database.busy_timeout, self._reserve.free)
        self._renew()
        self._ringer.sweep()

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over unacknowledged messages of `lost`; none if its file was replaced or others have requeued them."""
        if not isinstance(lost, SqliteConsumer) or lost._database.replaced:
            return ()
        # The outage may have kept other consumers from renewing their leases, too.
        self._reap_from = time.monotonic() + _GRACE
        wanted = {delivery.id: delivery for delivery in deliveries if isinstance(delivery, SqliteDelivery)}
        with self._database.write() as connection:
            # Compare the token, too: in a replaced file the id may be another consumer's.
            if not connection.execute(
                "SELECT 1 FROM framework_consumers WHERE id = ? AND bell = ?", (lost._id, lost._bell.token)
            ).fetchone():
                return ()
            lost._settle(connection)
            self._stay_registered(connection)
            rows = connection.execute(
                "UPDATE framework_messages SET owner = ? "
                "WHERE owner = ? AND id IN (SELECT value FROM json_each(?)) RETURNING id",
                (self._id, lost._id, _ids(list(wanted)).decode()),
            ).fetchall()
            connection.execute("UPDATE framework_messages SET owner = NULL WHERE owner = ?", (lost._id,))
            unregister(connection, lost._id)
        lost._clear_settlements()
        self._ringer.ring_all(CONSUMER_BELL)
        adopted = [wanted[row_id] for (row_id,) in rows]
        for delivery in adopted:
            delivery.consumer = self
        return adopted

    # ------------------------------------------------------------ queues

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and start consuming from it."""
        with self._database.write() as connection:
            queue_id = declare(connection, queue)
            connection.execute("INSERT OR IGNORE INTO framework_subscriptions VALUES (?, ?)", (self._id, queue_id))
        self._queues[queue_id] = queue.name
        if queue.broadcast:
            self._own.add(queue_id)
        if len(self._queues) == 1:
            # Once for all queues; later the heartbeat does it.
            self._reap()
        self._update_due()
        # Causes a `fetch`, which arms the bell again.
        self._wake_self()

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`."""
        for queue_id in [known for known, its_name in self._queues.items() if its_name == name]:
            del self._queues[queue_id]
            with self._database.write() as connection:
                drop_auto_delete(connection, (self._id,), queue_id)

    # ------------------------------------------------------------ messages

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Send settlements, reserve up to `limit` messages, and arm the doorbell if there were fewer."""
        self._bell.drain()
        self._wake_pending = False
        if self.due_at is not None and time.monotonic() >= self.due_at:
            self._unpark()
        was_armed = self._bell.armed
        if self._reserve.freed and (fitting := self._fitting(limit)) < limit:
            found = self._transact(fitting)
            self._wake_self()
            return found
        found = self._transact(limit)
        if len(found) == limit:
            self._bell.disarm()
        elif not was_armed:
            # Arm, then check again: any message committed after this check rings.
            self._bell.arm()
            found += self._transact(limit - len(found))
        return found

    def _fitting(self, limit: int) -> int:
        """Return how many messages to reserve while the disk is full: reserving rewrites the whole message."""
        with self._database.read() as connection:
            sizes = [
                connection.execute(_GREATEST, (queue, limit)).fetchone()[0] or 1 for queue in self._ready(connection)
            ]
        return max(1, min(limit, _FITTING // max(sizes, default=1)))

    def flush(self) -> None:
        """Send settlements.

        The caller wants no messages now, so a pending wake-up is cleared, or the loop would spin; the next heartbeat
        repeats it unless a `fetch` comes first.
        """
        if self._bell.drain():
            self._wake_pending = True
        if self._unsettled():
            self._transact(0)

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Send settlements, and reserve the messages parked under `keys`."""
        if self._unsettled():
            self._transact(0)
        with self._database.read() as connection:
            wanted = parked_under(connection, self._queues, keys)
        if not wanted:
            return []
        with self._database.write() as connection:
            self._stay_registered(connection)
            return self._deliveries(recall(connection, self._id, wanted))

    def _unsettled(self) -> bool:
        return bool(self.acked or self.requeued or self.released or self.parks)

    def _unpark(self) -> None:
        with self._database.write() as connection:
            moved = unpark(connection, self._queues, time.time())
        if moved:
            # There may be more messages than this consumer has capacity for.
            self._ringer.ring_all(CONSUMER_BELL)
        self._update_due()

    def _update_due(self) -> bool:
        """Read the next due time of parked messages; return whether it has changed."""
        known = self._due
        with self._database.read() as connection:
            self._due = due = next_due(connection, self._queues)
        # Computed each time, because the wall clock may have been set.
        self.due_at = None if due is None else time.monotonic() + max(0.0, due - time.time())
        return due != known

    def _transact(self, limit: int) -> list[Delivery]:
        if limit and not self._unsettled() and not self._is_any_ready():
            return []
        if not self._queues:
            limit = 0
        if not (limit or self._unsettled()):
            return []
        acked, requeued, released, parks = len(self.acked), len(self.requeued), len(self.released), len(self.parks)
        with self._database.write() as connection:
            self._settle(connection)
            rows = self._rows(connection, limit) if limit else []
        # Cleared after the commit: after a failed transaction `close` tries again.
        del self.acked[:acked]
        del self.requeued[:requeued]
        del self.released[:released]
        del self.parks[:parks]
        if parks:
            self._update_due()
        if requeued or released:
            self._ringer.ring_all(CONSUMER_BELL)
        # An UPDATE returns its rows in any order.
        return self._deliveries(rows)

    def _deliveries(self, rows: list[tuple[int, int, int, int, bytes]]) -> list[Delivery]:
        rows.sort()
        if self._own:
            rows = [(*row[:4], sent_to(row[4], self._queues[row[2]])) if row[2] in self._own else row for row in rows]
        return [
            SqliteDelivery(
                self,
                row_id,
                self._queues[queue],
                deliveries,
                mark_redelivered(payload, deliveries) if deliveries else payload,
            )
            for _, row_id, queue, deliveries, payload in rows
        ]

    def _is_any_ready(self) -> bool:
        with self._database.read() as connection:
            (self._seen_version,) = connection.execute("PRAGMA data_version").fetchone()
            return bool(self._ready(connection))

    def _ready(self, connection: sqlite3.Connection) -> Sequence[int]:
        """Return the consumed queues in which messages wait, in the order in which they were added."""
        if len(self._queues) == 1:
            (queue,) = self._queues
            return (queue,) if connection.execute(_WAITING_IN_ONE, (queue, 1)).fetchone() else ()
        ready = {queue for (queue,) in connection.execute(_READY_QUEUES)}
        return [queue for queue in self._queues if queue in ready] if ready else ()

    def _settle(self, connection: sqlite3.Connection) -> None:
        if self.acked:
            connection.execute(_DELETE_ACKED, (_ids(self.acked).decode(), self._id))
        for ids, counted in ((self.requeued, 1), (self.released, 0)):
            if ids:
                connection.execute(_REQUEUE.format(counted=counted), (_ids(ids).decode(), self._id))
        if self.parks:
            park(connection, self._id, self.parks)

    def _rows(self, connection: sqlite3.Connection, limit: int) -> list[tuple[int, int, int, int, bytes]]:
        """Reserve by priority over all queues, then in turn between them, then by age."""
        self._stay_registered(connection)
        if len(self._queues) == 1:
            (queue,) = self._queues
            return connection.execute(_RESERVE_IN_ONE, (self._id, queue, limit)).fetchall()
        ready = self._ready(connection)
        self._first_queue += 1
        waiting = [
            (priority, place, (self._first_queue + number) % len(ready), row_id)
            for number, queue in enumerate(ready)
            for place, (priority, row_id) in enumerate(connection.execute(_WAITING_IN_ONE, (queue, limit)))
        ]
        chosen = [row[-1] for row in heapq.nsmallest(limit, waiting)]
        return connection.execute(_RESERVE_CHOSEN, (self._id, _ids(chosen).decode())).fetchall()

    # ------------------------------------------------------------ waking and leases

    def fileno(self) -> int:
        """Return the doorbell's descriptor."""
        return self._bell.fileno()

    def _wake_self(self) -> None:
        self._bell.arm()
        self._ringer.ring(CONSUMER_BELL, (self._bell.token,))

    def heartbeat(self) -> None:
        """Renew the lease every third of it, reap dead consumers, and check for changes without a wake-up."""
        if time.monotonic() >= self._renew_at:
            self._renew()
        self._reserve.keep()
        self._reap()
        if not self._bell.present():
            raise ConnectionLost(f"the directory {self._database.path}-wake was emptied while in use")
        if self._update_due() or (self.due_at is not None and time.monotonic() >= self.due_at):
            self._wake_self()
        if self._bell.armed:
            with self._database.read() as connection:
                (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != self._seen_version or self._wake_pending:
                self._seen_version = version
                self._wake_pending = False
                self._wake_self()

    def _renew(self) -> None:
        now = time.monotonic()
        with self._database.write() as connection:
            renewed = connection.execute(
                "UPDATE framework_consumers SET deadline = ? WHERE id = ?", (now + self._lease, self._id)
            )
            if not renewed.rowcount:
                self._register(connection)
        self._renew_at = now + self._lease / 3

    def _stay_registered(self, connection: sqlite3.Connection) -> None:
        """Register again if another consumer has removed this one: messages reserved under its old id would be lost.

        Runs in the transaction that reserves, because the lease may have lapsed while waiting for the file's lock.
        """
        if not connection.execute("SELECT 1 FROM framework_consumers WHERE id = ?", (self._id,)).fetchone():
            self._register(connection)

    def _register(self, connection: sqlite3.Connection) -> None:
        """Get a new id: at the start, or after the lease has lapsed and another consumer has requeued the messages."""
        if self._id:
            logger.warning(LEASE_NOT_RENEWED, self._lease, time.monotonic() - self._renew_at + self._lease / 3)
            known = {queue for (queue,) in connection.execute("SELECT id FROM framework_queues")}
            if not known.issuperset(self._queues):
                raise ConnectionLost("a queue of this worker alone was dropped while the worker did not run")
        (self._id,) = connection.execute(
            "INSERT INTO framework_consumers (bell, lease, deadline) VALUES (?, ?, ?) RETURNING id",
            (self._bell.token, self._lease, time.monotonic() + self._lease),
        ).fetchone()
        connection.executemany(
            "INSERT OR IGNORE INTO framework_subscriptions VALUES (?, ?)",
            [(self._id, queue_id) for queue_id in self._queues],
        )

    def _reap(self) -> None:
        if time.monotonic() >= self._reap_from and reap(self._database, self._ringer):
            self._ringer.ring_all(CONSUMER_BELL)

    def close(self, *, requeue: bool) -> None:
        """Settle, requeue messages if `requeue`, unregister. A forked child leaves the parent's messages alone."""
        if self._pid == os.getpid() and not self._database.replaced:
            # Closed already, or the file is out of reach: others requeue the messages when the lease lapses.
            with suppress(ConnectionLost):
                self._settle_and_unregister(requeue)
        self._bell.close()
        self._ringer.close()
        self._database.close()

    def _settle_and_unregister(self, requeue: bool) -> None:
        with self._database.write() as connection:
            self._settle(connection)
            if requeue:
                requeue_all(connection, (self._id,))
            # Without `requeue` the messages stay reserved until the lease lapses.
            unregister(connection, self._id)
        self._clear_settlements()
        self._ringer.ring_all(CONSUMER_BELL)

    def _clear_settlements(self) -> None:
        self.acked.clear()
        self.requeued.clear()
        self.released.clear()
        self.parks.clear()
