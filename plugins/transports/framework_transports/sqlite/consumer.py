"""The consumer: takes messages on loan and settles them, in batches.

1. Register under a lease, and renew it; put back what dead consumers hold.
2. Fetch: settle what is due and reserve more, in one transaction.
3. Sleep: arm the doorbell before the last look at an empty queue.
4. Park: settle into another table, and put back from there what is due, at the time known from the last look.
5. On closing, settle, give back, and leave no trace; or leave it to the consumer that adopts what is on loan.

A consumer whose process has died is noticed by its doorbell, which refuses to ring, within about a second;
one that cannot be told so (it hangs, it is stopped, its socket lives on in a child) by its lease.

Its commits need no fsync of their own: should a power cut undo the last of them, the messages are handed
out again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

import msgspec

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost
from framework.message import mark_redelivered
from framework_drivers.sqlite.database import Database
from framework_drivers.sqlite.doorbell import Doorbell, Ringer
from framework_transports._leases import LEASE_NOT_RENEWED
from framework_transports.sqlite.delivery import SqliteDelivery
from framework_transports.sqlite.housekeeping import put_back, reap, unregister
from framework_transports.sqlite.parking import create, next_due, park, parked_under, recall, unpark
from framework_transports.sqlite.schema import CONSUMER_BELL
from framework_transports.sqlite.topology import declare, forget_auto_delete

logger = logging.getLogger(__name__)

_ids = msgspec.json.Encoder().encode

_SETTLE_DONE = (
    # A loan that was put back while it was being worked on (we overslept our lease) is done all the same,
    # unless somebody else has it by now. Ids are never used twice.
    "DELETE FROM framework_messages WHERE id IN (SELECT value FROM json_each(?)) AND (owner = ? OR owner IS NULL)"
)
_SETTLE_BACK = (
    "UPDATE framework_messages SET owner = NULL, deliveries = deliveries + {counted} "
    "WHERE id IN (SELECT value FROM json_each(?)) AND owner = ?"
)
_RESERVE = (
    "UPDATE framework_messages SET owner = ? WHERE id IN ({chosen}) RETURNING priority, id, queue, deliveries, payload"
)
_READY_IN_ONE = (
    "SELECT id FROM framework_messages WHERE queue = {queue} AND owner IS NULL ORDER BY priority, id LIMIT ?"
)


#: Seconds for which others' leases are left alone after an outage: who is alive comes back within this time.
_GRACE = 5.0


class SqliteConsumer(Consumer):
    """Fetches from tables."""

    def __init__(self, database: Database, lease: float) -> None:
        #: Ids of messages to delete, to put back, and to put back uncounted, in the next transaction.
        self.done: list[int] = []
        self.back: list[int] = []
        self.unused: list[int] = []
        #: The same to park, with the time until which and the key.
        self.parks: list[tuple[int, float, str]] = []
        #: When the next parked message comes due (s since the epoch), by the last look; and by this machine's clock.
        self._due: float | None = None
        self.due_at: float | None = None
        self._database = database
        self._lease = lease
        # Often enough for the lease; and never rarely: it is the safety net for a wake-up that a dying producer
        # did not send, and finds dead consumers.
        self.heartbeat_interval = min(1.0, lease / 3)
        self._pid = os.getpid()
        self._queues: dict[int, str] = {}
        self._reserve = ""
        self._turn = 0
        self._seen_version: int | None = None
        self._unanswered = False
        self._ringer = Ringer(database.path)
        self._bell = Doorbell(database.path, CONSUMER_BELL, armed=False)
        self._id = 0
        self._renew_at = 0.0
        self._reap_from = 0.0
        create(database.path, database.busy_timeout)
        self._renew()
        self._ringer.sweep()

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over what `lost` had on loan, unless its file is another one now or others have put that back."""
        if not isinstance(lost, SqliteConsumer) or lost._database.replaced:
            return ()
        # Whoever kept us from renewing our lease kept the others from renewing theirs.
        self._reap_from = time.monotonic() + _GRACE
        wanted = {delivery.id: delivery for delivery in deliveries if isinstance(delivery, SqliteDelivery)}
        with self._database.write() as connection:
            # The token too: in a file that has replaced the old one the number may be somebody else's.
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
        lost._forget_settled()
        self._ringer.ring_all(CONSUMER_BELL)
        adopted = [wanted[row_id] for (row_id,) in rows]
        for delivery in adopted:
            delivery.consumer = self
        return adopted

    # ------------------------------------------------------------ queues

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and consume from it too."""
        with self._database.write() as connection:
            queue_id = declare(connection, queue)
            connection.execute("INSERT OR IGNORE INTO framework_subscriptions VALUES (?, ?)", (self._id, queue_id))
        self._queues[queue_id] = queue.name
        self._choose()
        self._reap()
        self._look_ahead()
        # Arms the bell again by the next `fetch`, and causes that fetch.
        self._wake_self()

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`."""
        for queue_id in [known for known, its_name in self._queues.items() if its_name == name]:
            del self._queues[queue_id]
            self._choose()
            with self._database.write() as connection:
                forget_auto_delete(connection, (self._id,), queue_id)

    def _choose(self) -> None:
        """Write the statement that reserves: by priority over all queues, then by turns between them, then by age."""
        ready = [_READY_IN_ONE.format(queue=queue_id) for queue_id in self._queues]
        if len(ready) == 1:
            self._reserve = _RESERVE.format(chosen=ready[0])
            return
        branches = [
            f"SELECT id, priority, row_number() OVER () AS place, (? + {number}) % {len(ready)} AS turn "
            f"FROM (SELECT id, priority FROM framework_messages WHERE queue = {queue_id} AND owner IS NULL "
            "ORDER BY priority, id LIMIT ?)"
            for number, queue_id in enumerate(self._queues)
        ]
        chosen = f"SELECT id FROM ({' UNION ALL '.join(branches)}) ORDER BY priority, place, turn LIMIT ?"
        self._reserve = _RESERVE.format(chosen=chosen)

    # ------------------------------------------------------------ messages

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Settle what is due, reserve up to `limit`, and arm the doorbell if there were fewer."""
        self._bell.drain()
        self._unanswered = False
        if self.due_at is not None and time.monotonic() >= self.due_at:
            self._unpark()
        was_armed = self._bell.armed
        found = self._transact(limit)
        if len(found) == limit:
            self._bell.disarm()
        elif not was_armed:
            # Armed first, then looked again: whatever is committed after this look rings.
            self._bell.arm()
            found += self._transact(limit - len(found))
        return found

    def flush(self) -> None:
        """Settle what is due.

        Whoever flushes does not want messages now. A call that has come is set aside, so that it does not keep the loop
        turning; the next heartbeat repeats it, unless a `fetch` has answered it by then.
        """
        if self._bell.drain():
            self._unanswered = True
        if self._unsettled():
            self._transact(0)

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Settle, and take what is parked under `keys`."""
        if self._unsettled():
            self._transact(0)
        with self._database.read() as connection:
            wanted = parked_under(connection, self._queues, keys)
        if not wanted:
            return []
        with self._database.write() as connection:
            self._stay_registered(connection)
            return self._lend(recall(connection, self._id, wanted))

    def _unsettled(self) -> bool:
        return bool(self.done or self.back or self.unused or self.parks)

    def _unpark(self) -> None:
        with self._database.write() as connection:
            moved = unpark(connection, self._queues, time.time())
        if moved:
            # More than this consumer may want.
            self._ringer.ring_all(CONSUMER_BELL)
        self._look_ahead()

    def _look_ahead(self) -> bool:
        """Learn when the next parked message comes due; return whether that has changed."""
        known = self._due
        with self._database.read() as connection:
            self._due = due = next_due(connection, self._queues)
        # Each time anew: the wall clock may have been set.
        self.due_at = None if due is None else time.monotonic() + max(0.0, due - time.time())
        return due != known

    def _transact(self, limit: int) -> list[Delivery]:
        if limit and not self._unsettled() and not self._is_any_ready():
            return []
        if not self._queues:
            limit = 0
        if not (limit or self._unsettled()):
            return []
        done, back, unused, parks = len(self.done), len(self.back), len(self.unused), len(self.parks)
        with self._database.write() as connection:
            self._settle(connection)
            rows = self._rows(connection, limit) if limit else []
        # Only now: after a failed transaction `close` tries again.
        del self.done[:done]
        del self.back[:back]
        del self.unused[:unused]
        del self.parks[:parks]
        if parks:
            self._look_ahead()
        if back or unused:
            self._ringer.ring_all(CONSUMER_BELL)
        # An UPDATE returns its rows in any order.
        return self._lend(rows)

    def _lend(self, rows: list[tuple[int, int, int, int, bytes]]) -> list[Delivery]:
        rows.sort()
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
            for queue_id in self._queues:
                if connection.execute(
                    "SELECT 1 FROM framework_messages WHERE queue = ? AND owner IS NULL LIMIT 1", (queue_id,)
                ).fetchone():
                    return True
        return False

    def _settle(self, connection: sqlite3.Connection) -> None:
        if self.done:
            connection.execute(_SETTLE_DONE, (_ids(self.done).decode(), self._id))
        for ids, counted in ((self.back, 1), (self.unused, 0)):
            if ids:
                connection.execute(_SETTLE_BACK.format(counted=counted), (_ids(ids).decode(), self._id))
        if self.parks:
            park(connection, self._id, self.parks)

    def _rows(self, connection: sqlite3.Connection, limit: int) -> list[tuple[int, int, int, int, bytes]]:
        self._stay_registered(connection)
        queues = len(self._queues)
        if queues == 1:
            return connection.execute(self._reserve, (self._id, limit)).fetchall()
        self._turn = (self._turn + 1) % queues
        return connection.execute(self._reserve, (self._id, *(self._turn, limit) * queues, limit)).fetchall()

    # ------------------------------------------------------------ waking and leases

    def fileno(self) -> int:
        """Return the doorbell's descriptor."""
        return self._bell.fileno()

    def _wake_self(self) -> None:
        self._bell.arm()
        self._ringer.ring(CONSUMER_BELL, (self._bell.token,))

    def heartbeat(self) -> None:
        """Renew the lease when a third of it is over, look for dead consumers, and for changes nobody rang for."""
        if time.monotonic() >= self._renew_at:
            self._renew()
        self._reap()
        if not self._bell.present():
            raise ConnectionLost(f"the directory {self._database.path}-wake was emptied while it was in use")
        if self._look_ahead() or (self.due_at is not None and time.monotonic() >= self.due_at):
            self._wake_self()
        if self._bell.armed:
            with self._database.read() as connection:
                (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != self._seen_version or self._unanswered:
                self._seen_version = version
                self._unanswered = False
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
        """Get another id if others have struck us off: what is reserved under the old one would be nobody's, for ever.

        In the transaction that reserves, because our lease may have lapsed while we waited for it.
        """
        if not connection.execute("SELECT 1 FROM framework_consumers WHERE id = ?", (self._id,)).fetchone():
            self._register(connection)

    def _register(self, connection: sqlite3.Connection) -> None:
        """Get an id: for the first time, or because we overslept, and others have put our loans back."""
        if self._id:
            logger.warning(LEASE_NOT_RENEWED, self._lease, time.monotonic() - self._renew_at + self._lease / 3)
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
        """Settle what is due, give back what is on loan, unregister. After a fork the parent's loans are left alone."""
        if self._pid == os.getpid() and not self._database.replaced:
            # Closed already, or the file is out of reach: then the lease sees to the loans.
            with suppress(ConnectionLost):
                self._leave(requeue)
        self._bell.close()
        self._ringer.close()
        self._database.close()

    def _leave(self, requeue: bool) -> None:
        with self._database.write() as connection:
            self._settle(connection)
            if requeue:
                put_back(connection, (self._id,))
            # Without `requeue` the loans stay ours until the lease is over, as if we hung.
            unregister(connection, self._id)
        self._forget_settled()
        self._ringer.ring_all(CONSUMER_BELL)

    def _forget_settled(self) -> None:
        self.done.clear()
        self.back.clear()
        self.unused.clear()
        self.parks.clear()
