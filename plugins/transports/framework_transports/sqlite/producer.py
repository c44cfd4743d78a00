"""The producer: publishes from any thread.

1. Publishes a batch in one transaction, then wakes its receivers.
2. Declares queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from framework.api.transport import Producer, Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing
from framework_drivers.sqlite.database import Database
from framework_drivers.sqlite.doorbell import Ringer
from framework_transports.sqlite.housekeeping import reap
from framework_transports.sqlite.publish import Batch
from framework_transports.sqlite.reserve import Reserve
from framework_transports.sqlite.topology import SqliteRouter, declare, declare_exchange, is_declared


class SqliteProducer(Producer):
    """Publishes into the tables; thread-safe, fork-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._router = SqliteRouter()
        self._ringer = Ringer(database.path)
        self._reserve = Reserve(database.path)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Commit all of `messages` in one transaction."""
        if not messages:
            return
        batch = Batch(messages)
        try:
            with self._database.write() as connection:
                if self._reserve.refuses(connection):
                    raise ConnectionLost(
                        f"{self._database.path} cannot grow: its disk is full, and the room that is left is kept for "
                        "running the messages that wait"
                    )
                self._router.refresh(connection)
                batch.insert(connection, self._router, required=True)
        except BaseException:  # undone and raised again
            # The cache may hold a queue whose creation was rolled back.
            self._router.forget()
            raise
        batch.wake(self._ringer, self._database)

    def declare(self, queues: Iterable[Queue]) -> None:
        """Create queues, exchanges and bindings that do not exist; without any, no write transaction is needed."""
        wanted = list(queues)
        with self._database.read() as connection:
            missing = [queue for queue in wanted if not is_declared(connection, queue)]
        if missing:
            with self._database.write() as connection:
                for queue in missing:
                    if queue.broadcast:
                        declare_exchange(connection, queue.exchange)
                    else:
                        declare(connection, queue)
        if any(queue.broadcast for queue in wanted):
            # While no worker is left to do it, messages would fill the queues of those that died.
            reap(self._database, self._ringer)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()
        self._ringer.close()
