"""The producer: publishes from any thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from framework.api.transport import Producer, Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing
from framework_transports.memory.broker import MemoryBroker


class MemoryProducer(Producer):
    """Publishes into the broker of this process."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker: MemoryBroker | None = broker

    def _open(self) -> MemoryBroker:
        if self._broker is None:
            raise ConnectionLost("this producer is closed")
        return self._broker

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Route and store all of `messages`."""
        self._open().publish(messages, required=True)

    def declare(self, queues: Iterable[Queue]) -> None:
        """Create queues, exchanges and bindings that do not exist."""
        broker = self._open()
        with broker.lock:
            for queue in queues:
                if queue.broadcast:
                    broker.declare_exchange(queue.exchange)
                else:
                    broker.declare(queue)

    def close(self) -> None:
        """Drop the reference to the broker; harmless when closed."""
        self._broker = None
