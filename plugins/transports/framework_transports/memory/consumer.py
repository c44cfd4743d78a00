"""The consumer: takes messages on loan and settles them, in batches.

1. Fetch by priority over all queues, then by turns between them, then by age.
2. Arm the wake-up when there was less than asked for.
3. On closing, give back what is on loan.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost
from framework.message import mark_redelivered
from framework_transports.memory.broker import MemoryBroker, Waiting
from framework_transports.memory.signal import Signal


class MemoryDelivery(Delivery):
    """A message on loan."""

    __slots__ = ("_consumer", "_waiting")

    def __init__(self, consumer: MemoryConsumer, queue: str, waiting: Waiting) -> None:
        self._consumer: MemoryConsumer | None = consumer
        self._waiting = waiting
        self.queue = queue
        self.deliveries = waiting.deliveries
        self.payload = (
            mark_redelivered(waiting.envelope, waiting.deliveries) if waiting.deliveries else waiting.envelope
        )

    def ack(self) -> None:
        """The message is done with; a second settlement is ignored."""
        self._settle(None)

    def reject(self, *, requeue: bool) -> None:
        """Drop the message, or put it back to the front of its queue."""
        self._settle(1 if requeue else None)

    def release(self) -> None:
        """Put the message back to the front of its queue, uncounted."""
        self._settle(0)

    def park(self, until: float, key: str = "") -> bool:
        """Keep the message for later."""
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

    #: Nothing has to be renewed; see `flush`.
    heartbeat_interval = 1.0

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker: MemoryBroker | None = broker
        self.names: list[str] = []
        self.armed = False
        self.signal = Signal()
        #: Numbers of messages to settle by the next `fetch` or `flush`; by how much each is counted if it goes back.
        self.settled: list[tuple[int, int | None]] = []
        #: The same of messages to park, with the time until which and the key.
        self.parks: list[tuple[int, float, str]] = []
        self._loans: dict[int, tuple[str, Waiting]] = {}
        self._turn = 0
        self._unanswered = False
        with broker.lock:
            broker.consumers.add(self)

    def _open(self) -> MemoryBroker:
        if self._broker is None:
            raise ConnectionLost("this consumer is closed")
        return self._broker

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and consume from it too."""
        broker = self._open()
        with broker.lock:
            broker.declare(queue)
            if queue.name not in self.names:
                self.names.append(queue.name)
        self.signal.set()

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`."""
        broker = self._open()
        with broker.lock:
            if name in self.names:
                self.names.remove(name)
                broker.release(name)

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Settle what is due, take up to `limit`, and arm the wake-up if there were fewer."""
        broker = self._open()
        self.signal.clear()
        self._unanswered = False
        with broker.lock:
            self._settle(broker)
            if broker.parked or self.due_at is not None:
                self.due_at = broker.unpark(self.names)
            found: list[Delivery] = []
            taken = dict.fromkeys(self.names, 0)
            self._turn += 1
            while len(found) < limit:
                choice = self._choose(broker, taken)
                if choice is None:
                    break
                taken[choice] += 1
                found.append(self._lend(choice, heapq.heappop(broker.queues[choice])))
            self.armed = len(found) < limit
        return found

    def _lend(self, name: str, waiting: Waiting) -> MemoryDelivery:
        self._loans[waiting.number] = (name, waiting)
        return MemoryDelivery(self, name, waiting)

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Settle, and take what is parked under `keys`."""
        broker = self._open()
        with broker.lock:
            self._settle(broker)
            return [self._lend(*found) for found in broker.recall(self.names, keys)]

    def _choose(self, broker: MemoryBroker, taken: dict[str, int]) -> str | None:
        """Return the queue to take from: by priority, then by turns, beginning with another queue each time."""
        best: tuple[int, int, int, str] | None = None
        for number, name in enumerate(self.names):
            heap = broker.queues.get(name)
            if heap:
                rank = (heap[0].priority, taken[name], (self._turn + number) % len(self.names), name)
                if best is None or rank < best:
                    best = rank
        return None if best is None else best[3]

    def _settle(self, broker: MemoryBroker) -> None:
        settled, self.settled = self.settled, []
        back = {}
        for number, counted in settled:
            loan = self._loans.pop(number, None)
            if loan is not None and counted is not None:
                name, waiting = loan
                back[number] = (name, waiting._replace(deliveries=waiting.deliveries + counted))
        self._put_back(broker, back)
        if self.parks:
            self._park(broker)

    def _park(self, broker: MemoryBroker) -> None:
        parks, self.parks = self.parks, []
        for number, until, key in parks:
            loan = self._loans.pop(number, None)
            if loan is not None:
                broker.park(*loan, until, key)

    def _put_back(self, broker: MemoryBroker, loans: Mapping[int, tuple[str, Waiting]]) -> None:
        for name, waiting in loans.values():
            if name in broker.queues:
                heapq.heappush(broker.queues[name], waiting)
        broker.wake({name for name, _ in loans.values()})

    def flush(self) -> None:
        """Settle what is due.

        Whoever flushes does not want messages now. A wake-up that has come is set aside, so that it does not keep the
        loop turning; the next heartbeat repeats it, unless a `fetch` has answered it by then.
        """
        broker = self._open()
        if self.signal.clear():
            self._unanswered = True
        with broker.lock:
            self._settle(broker)

    def heartbeat(self) -> None:
        """Repeat a wake-up that `flush` has set aside."""
        if self._unanswered:
            self._unanswered = False
            self.signal.set()

    def fileno(self) -> int:
        """Return the descriptor of the wake-up."""
        return self.signal.fileno()

    def close(self, *, requeue: bool) -> None:
        """Settle what is due, and give back what is on loan: nobody else could, so also without `requeue`."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        with broker.lock:
            self._settle(broker)
            broker.consumers.discard(self)
            began = {
                number: (name, waiting._replace(deliveries=waiting.deliveries + 1))
                for number, (name, waiting) in self._loans.items()
            }
            self._put_back(broker, began)
            self._loans = {}
            for name in self.names:
                broker.release(name)
        self.signal.close()
