"""Administration: how long queues are, and emptying them.

A connection of its own, opened when first asked: these questions come from the command line, monitors and autoscalers.
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
    """Asks the broker about queues; thread-safe."""

    def __init__(self, connector: Connector) -> None:
        self._session = AmqpSession(connector, "admin")
        self._declarer: Declarer | None = None

    def _opened(self, connection: AmqpConnection) -> None:
        self._declarer = Declarer(connection)

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue; None when there is no such queue."""
        names = [queue.name for queue in queues]
        return self._ask(lambda declarer: {name: declarer.size(name) for name in names})

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        names = [queue.name for queue in queues]
        return self._ask(lambda declarer: {name: sum(_sizes(declarer, name)) for name in names})

    def purge(self, queue: Queue) -> int:
        """Drop what waits in `queue` or is parked; return how much that was."""

        def drop(declarer: Declarer) -> int:
            # The highest first, and the queue last: that is the way of what comes due meanwhile.
            levels = list(zip(_sizes(declarer, queue.name), level_queues(queue.name), strict=False))
            return sum(declarer.purge(name) for name in (*(name for _, name in reversed(levels)), queue.name))

        return self._ask(drop)

    def close(self) -> None:
        """Close the connection; harmless when closed."""
        self._session.close()

    def _ask(self, question: Callable[[Declarer], T]) -> T:
        with self._session.lock():
            connection = self._session.connection(self._opened)
            declarer = self._declarer
            if declarer is None:
                raise ConnectionLost(f"the connection to {connection.address.display} is lost")
            try:
                return question(declarer)
            except LOST as error:
                self._session.drop()
                raise lost(connection.address, error) from error
            except ChannelClosed as closed:
                raise TransportError(f"the broker refused to answer: {closed.text}") from closed


def _sizes(declarer: Declarer, name: str) -> Iterator[int]:
    """Yield how many messages of the queue `name` wait on each level that there is.

    Asked for a queue that there is not, the broker writes an error into its log: once is enough.
    """
    for level in level_queues(name):
        size = declarer.size(level)
        if size is None:
            return
        yield size
