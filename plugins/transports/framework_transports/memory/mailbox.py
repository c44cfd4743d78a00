"""The mailbox: receives and publishes fan-out messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from framework.api.transport import Mailbox, Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing, Payload
from framework_transports.memory.broker import MemoryBroker
from framework_transports.memory.signal import Signal


class MemoryMailbox(Mailbox):
    """Fan-out inside this process."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker: MemoryBroker | None = broker
        self.subscriptions: list[Queue] = []
        self.arrived: deque[tuple[str, Payload]] = deque()
        self.signal = Signal()
        with broker.lock:
            broker.mailboxes.add(self)

    def _open(self) -> MemoryBroker:
        if self._broker is None:
            raise ConnectionLost("this mailbox is closed")
        return self._broker

    def subscribe(self, queue: Queue) -> None:
        """Receive messages routed to `queue`: its exchange's, and those for its name on the default exchange."""
        broker = self._open()
        with broker.lock:
            if queue.exchange.name:
                broker.declare_exchange(queue.exchange)
            if not any(known == queue for known in self.subscriptions):
                self.subscriptions.append(queue)

    def receive(self) -> Sequence[tuple[str, Payload]]:
        """Return the messages that have arrived, oldest first."""
        broker = self._open()
        self.signal.clear()
        with broker.lock:
            found = list(self.arrived)
            self.arrived.clear()
        return found

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish; messages without a receiver are dropped."""
        self.reach(messages)

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish, and return how many mailboxes received a copy."""
        return self._open().publish(messages, required=False)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message has arrived."""
        return self.signal.fileno()

    def close(self) -> None:
        """Unsubscribe and disconnect."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        with broker.lock:
            broker.mailboxes.discard(self)
        self.signal.close()
