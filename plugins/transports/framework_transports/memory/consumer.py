"""The consumer: reserves messages and settles them, in batches.

1. Fetches by priority over all queues, then in turn between them, then by age.
2. Arms the wake-up when there were fewer messages than its limit.
3. Requeues unacknowledged messages on closing.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost
from framework.message import mark_redelivered, sent_to
from framework_transports.memory.broker import MemoryBroker, Waiting
from framework_transports.memory.signal import Signal


class MemoryDelivery(Delivery):
    """An unacknowledged message."""

    __slots__ = ("_consumer", "_waiting")

    def __init__(self, consumer: MemoryConsumer, queue: str, waiting: Waiting) -> None:
        self._consumer: MemoryConsumer | None = consumer
        self._waiting = waiting
        self.queue = queue
        self.deliveries = waiting.deliveries
        self.payload = (
            mark_redelivered(waiting.envelope, waiting.deliveries) if waiting.deliveries else waiting.envelope
        )
        if queue in consumer.own:
            self.payload = sent_to(self.payload, queue)

    def ack(self) -> None:
        """Drop the message from the broker; a second settlement is ignored."""
        self._settle(None)

    def reject(self, *, requeue: bool) -> None:
        """Drop the message, or put it back to the front of its queue if `requeue`."""
        self._settle(1 if requeue else None)

    def release(self) -> None:
        """Put the message back to the front of its queue, uncounted."""
        self._settle(0)

    def park(self, until: float, key: str = "") -> bool:
        """Move the message to the parked messages."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.parks.append((self._waiting.number, until, key))
        return True

    def _settle(self, counted: int | None) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.settled.append((self._waiting.number, counted))


class MemoryConsumer(Consumer):
    """Fetches from the broker of this process."""

    #: The heartbeat repeats wake-ups that `flush` has cleared.
    heartbeat_interval = 1.0

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker: MemoryBroker | None = broker
        self.names: list[str] = []
        #: The queues for broadcast queues, which only this consumer knows.
        self.own: set[str] = set()
        self.armed = False
        self.signal = Signal()
        #: Numbers of messages to settle, each with None to drop it, or the deliveries to add when it is requeued.
        self.settled: list[tuple[int, int | None]] = []
        #: Numbers of messages to park, each with its due time (s since the epoch) and its key.
        self.parks: list[tuple[int, float, str]] = []
        self._unacked: dict[int, tuple[str, Waiting]] = {}
        self._first_queue = 0
        self._wake_pending = False
        with broker.lock:
            broker.consumers.add(self)

    def _open(self) -> MemoryBroker:
        if self._broker is None:
            raise ConnectionLost("this consumer is closed")
        return self._broker

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and start consuming from it."""
        broker = self._open()
        with broker.lock:
            broker.declare(queue)
            if queue.name not in self.names:
                self.names.append(queue.name)
            if queue.broadcast:
                self.own.add(queue.name)
        self.signal.set()

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`."""
        broker = self._open()
        with broker.lock:
            if name in self.names:
                self.names.remove(name)
                broker.release(name)

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Send settlements, reserve up to `limit` messages, and arm the wake-up if there were fewer."""
        broker = self._open()
        self.signal.clear()
        self._wake_pending = False
        with broker.lock:
            self._settle(broker)
            if broker.parked or self.due_at is not None:
                self.due_at = broker.unpark(self.names)
            found: list[Delivery] = []
            taken = dict.fromkeys(self.names, 0)
            self._first_queue += 1
            while len(found) < limit:
                choice = self._choose(broker, taken)
                if choice is None:
                    break
                taken[choice] += 1
                found.append(self._deliver(choice, heapq.heappop(broker.queues[choice])))
            self.armed = len(found) < limit
        return found

    def _deliver(self, name: str, waiting: Waiting) -> MemoryDelivery:
        self._unacked[waiting.number] = (name, waiting)
        return MemoryDelivery(self, name, waiting)

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Send settlements, and reserve the messages parked under `keys`."""
        broker = self._open()
        with broker.lock:
            self._settle(broker)
            return [self._deliver(*found) for found in broker.recall(self.names, keys)]

    def _choose(self, broker: MemoryBroker, taken: dict[str, int]) -> str | None:
        """Return the queue to take from: by priority, then in turn, starting with another queue each time."""
        best: tuple[int, int, int, str] | None = None
        for number, name in enumerate(self.names):
            heap = broker.queues.get(name)
            if heap:
                rank = (heap[0].priority, taken[name], (self._first_queue + number) % len(self.names), name)
                if best is None or rank < best:
                    best = rank
        return None if best is None else best[3]

    def _settle(self, broker: MemoryBroker) -> None:
        settled, self.settled = self.settled, []
        requeued = {}
        for number, counted in settled:
            taken = self._unacked.pop(number, None)
            if taken is not None and counted is not None:
                name, waiting = taken
                requeued[number] = (name, waiting._replace(deliveries=waiting.deliveries + counted))
        self._requeue(broker, requeued)
        if self.parks:
            self._park(broker)

    def _park(self, broker: MemoryBroker) -> None:
        parks, self.parks = self.parks, []
        for number, until, key in parks:
            taken = self._unacked.pop(number, None)
            if taken is not None:
                broker.park(*taken, until, key)

    def _requeue(self, broker: MemoryBroker, unacked: Mapping[int, tuple[str, Waiting]]) -> None:
        for name, waiting in unacked.values():
            if name in broker.queues:
                heapq.heappush(broker.queues[name], waiting)
        broker.wake({name for name, _ in unacked.values()})

    def flush(self) -> None:
        """Send settlements.

        The caller wants no messages now, so a pending wake-up is cleared, or the loop would spin; the next heartbeat
        repeats it unless a `fetch` comes first.
        """
        broker = self._open()
        if self.signal.clear():
            self._wake_pending = True
        with broker.lock:
            self._settle(broker)

    def heartbeat(self) -> None:
        """Repeat a wake-up that `flush` has cleared."""
        if self._wake_pending:
            self._wake_pending = False
            self.signal.set()

    def fileno(self) -> int:
        """Return the descriptor of the wake-up."""
        return self.signal.fileno()

    def close(self, *, requeue: bool) -> None:
        """Settle, and requeue unacknowledged messages, also without `requeue`: no lease would do so later."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        with broker.lock:
            self._settle(broker)
            broker.consumers.discard(self)
            started = {
                number: (name, waiting._replace(deliveries=waiting.deliveries + 1))
                for number, (name, waiting) in self._unacked.items()
            }
            self._requeue(broker, started)
            self._unacked = {}
            for name in self.names:
                broker.release(name)
        self.signal.close()
