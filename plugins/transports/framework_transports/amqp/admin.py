"""Administration: counts and purges the messages of queues.

Opens its own connection at the first call: the command line, monitors and autoscalers use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from framework.api.transport import Queue
from framework.exceptions import ConnectionLost, TransportError
from framework_transports.amqp.connection import LOST, AmqpConnection, ChannelClosed, lost
from framework_transports.amqp.connector import Connector
from framework_transports.amqp.levels import level_queues
from framework_transports.amqp.session import AmqpSession
from framework_transports.amqp.topology import Declarer

T = TypeVar("T")


class Admin:
    """Counts and purges messages; thread-safe."""

    def __init__(self, connector: Connector) -> None:
        self._session = AmqpSession(connector, "admin")
        self._declarer: Declarer | None = None

    def _opened(self, connection: AmqpConnection) -> None:
        self._declarer = Declarer(connection)

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue; None for a queue that does not exist."""
        names = [queue.name for queue in queues]
        return self._query(lambda declarer: {name: declarer.size(name) for name in names})

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        names = [queue.name for queue in queues]
        return self._query(lambda declarer: {name: sum(_sizes(declarer, name)) for name in names})

    def purge(self, queue: Queue) -> int:
        """Drop waiting and parked messages of `queue`; return how many there were."""

        def drop(declarer: Declarer) -> int:
            # In the order in which messages move when they come due: highest level first, the queue last.
            levels = list(zip(_sizes(declarer, queue.name), level_queues(queue.name), strict=False))
            return sum(declarer.purge(name) for name in (*(name for _, name in reversed(levels)), queue.name))

        return self._query(drop)

    def close(self) -> None:
        """Close the connection; harmless when closed."""
        self._session.close()

    def _query(self, query: Callable[[Declarer], T]) -> T:
        with self._session.lock():
            connection = self._session.connection(self._opened)
            declarer = self._declarer
            if declarer is None:
                raise ConnectionLost(f"the connection to {connection.address.display} is lost")
            try:
                return query(declarer)
            except LOST as error:
                self._session.drop()
                raise lost(connection.address, error) from error
            except ChannelClosed as closed:
                raise TransportError(f"the broker refused the request: {closed.text}") from closed


def _sizes(declarer: Declarer, name: str) -> Iterator[int]:
    """Yield how many messages of the queue `name` wait on each level, up to the first level that does not exist.

    The broker logs an error for each missing queue, so the search stops at the first.
    """
    for level in level_queues(name):
        size = declarer.size(level)
        if size is None:
            return
        yield size
