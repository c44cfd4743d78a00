"""The broker inside one process, for tests and for tasks that run where they are sent.

1. `Broker` holds queues, exchanges and subscriptions under one lock; threads share it.
2. `MemoryProducer`, `MemoryConsumer` and `MemoryMailbox` are the faces of a transport.
3. `MemoryTransport` finds the broker by its URL: all ``memory://name`` of a process share one. It is
   forgotten with the last transport or face that uses it.

It behaves as the embedded broker does (`framework_transports.sqlite`): a lower priority number is served
first, what is put back is at the front again and counted. Nothing survives the process, so there are no
leases.
"""

from __future__ import annotations

import heapq
import socket
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec

from framework.api.transport import (
    Consumer,
    Delivery,
    Exchange,
    Mailbox,
    Producer,
    Queue,
    Transport,
    TransportTraits,
)
from framework.exceptions import ConnectionLost, PublishRefused, TransportError
from framework.message import Outgoing, Payload, mark_redelivered, to_envelope
from framework_transports._routing import TYPES, routes


class _Waiting(NamedTuple):
    """A message in a queue; the order of the fields is the order of service."""

    priority: int
    number: int
    deliveries: int
    envelope: bytes


class _Signal:
    """A descriptor that is readable while it is set."""

    def __init__(self) -> None:
        self._mine, self._theirs = socket.socketpair()
        self._mine.setblocking(False)
        self._theirs.setblocking(False)

    def fileno(self) -> int:
        return self._mine.fileno()

    def set(self) -> None:
        try:
            self._theirs.send(b"\0")
        except OSError:
            # Full: it is set. Closed: nobody waits.
            return

    def clear(self) -> None:
        try:
            while self._mine.recv(4096):
                pass
        except OSError:
            return

    def close(self) -> None:
        self._mine.close()
        self._theirs.close()


class Broker:
    """Everything, under one lock. Subscribers are held weakly: one that was merely dropped is gone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: dict[str, list[_Waiting]] = {}
        self.auto_delete: set[str] = set()
        self.exchanges: dict[str, str] = {}
        self.bindings: dict[str, dict[tuple[str, str], None]] = {}
        self.consumers: weakref.WeakSet[MemoryConsumer] = weakref.WeakSet()
        self.mailboxes: weakref.WeakSet[MemoryMailbox] = weakref.WeakSet()
        self._numbers = count()

    def declare(self, queue: Queue) -> None:
        """Create `queue`, its exchange and its binding where they do not exist."""
        if queue.exchange.name:
            self.declare_exchange(queue.exchange)
            self.bindings.setdefault(queue.exchange.name, {})[queue.name, queue.routing_key] = None
        if queue.name not in self.queues:
            self.queues[queue.name] = []
            if queue.auto_delete or queue.exclusive:
                self.auto_delete.add(queue.name)

    def declare_exchange(self, exchange: Exchange) -> None:
        """Create `exchange`. Raises `TransportError` when it exists with another type, or the type is unknown."""
        if exchange.type not in TYPES:
            raise TransportError(
                f"exchange {exchange.name!r} has type {exchange.type!r}, which this broker does not know: "
                f"use one of {', '.join(sorted(TYPES))}"
            )
        found = self.exchanges.setdefault(exchange.name, exchange.type)
        if found != exchange.type:
            raise TransportError(
                f"exchange {exchange.name!r} is of type {found!r} in the broker and {exchange.type!r} in the settings: "
                "use the broker's type, or another name"
            )

    def release(self, name: str) -> None:
        """Drop the queue `name` if it was to live only as long as its consumers, and nobody consumes from it."""
        if name in self.auto_delete and not any(name in consumer.names for consumer in self.consumers):
            self.auto_delete.discard(name)
            self.queues.pop(name, None)
            for bound in self.bindings.values():
                for key in [key for key in bound if key[0] == name]:
                    del bound[key]

    def publish(self, messages: Sequence[Outgoing], *, required: bool) -> None:
        """Route and keep all of `messages`, or none of them if one is refused."""
        envelopes = [to_envelope(message, str(uuid4())) for message in messages]
        with self.lock:
            targets = [self._targets(message, required=required) for message in messages]
            for (queues, boxes), message, envelope in zip(targets, messages, envelopes, strict=True):
                for name in queues:
                    waiting = _Waiting(message.priority or 0, next(self._numbers), 0, envelope)
                    heapq.heappush(self.queues.setdefault(name, []), waiting)
                for mailbox, exchange in boxes:
                    mailbox.arrived.append((exchange, envelope))
                    mailbox.signal.set()
            self.wake({name for queues, _ in targets for name in queues})

    def _targets(
        self, message: Outgoing, *, required: bool
    ) -> tuple[list[str], list[tuple[MemoryMailbox, str]]]:
        exchange, key = message.exchange, message.routing_key
        kind = self.exchanges.get(exchange) if exchange else "direct"
        subscriptions = [(mailbox, queue) for mailbox in self.mailboxes for queue in mailbox.subscriptions]
        if not exchange:
            queues = [key] if key in self.queues else []
            boxes = [(mailbox, queue.exchange.name) for mailbox, queue in subscriptions if queue.name == key]
        elif kind is None:
            queues, boxes = [], []
        else:
            bound = self.bindings.get(exchange, {})
            queues = list(dict.fromkeys(name for name, bound_key in bound if routes(kind, bound_key, key)))
            boxes = [
                (mailbox, exchange)
                for mailbox, queue in subscriptions
                if queue.exchange.name == exchange and routes(kind, queue.routing_key, key)
            ]
        if queues or boxes or not required or message.delivery_mode != 2 or "fanout" in (kind,
        message.exchange_type): return queues, boxes if exchange or not key: known = "which does not exist"
        if kind is None else "where no queue is bound to it" raise PublishRefused( f"nothing takes a message
        with routing key {key!r} to exchange {exchange!r}, {known}: " "declare a queue for it" ) return
        [key], boxes

    def wake(self, names: set[str]) -> None:
        """Wake the consumers that wait for any of `names`."""
        for consumer in self.consumers:
            if consumer.armed and not names.isdisjoint(consumer.names):
                consumer.armed = False
                consumer.signal.set()


class MemoryProducer(Producer):
    """Publishes into the broker of this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker: Broker | None = broker

    def _open(self) -> Broker:
        if self._broker is None:
            raise ConnectionLost("this producer is closed")
        return self._broker

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Keep all of `messages`."""
        self._open().publish(messages, required=True)

    def declare(self, queues: Iterable[Queue]) -> None:
        """Create what does not exist."""
        broker = self._open()
        with broker.lock:
            for queue in queues:
                broker.declare(queue)

    def close(self) -> None:
        """Let go of the broker."""
        self._broker = None


class MemoryDelivery(Delivery):
    """A message on loan."""

    __slots__ = ("_consumer", "_waiting")

    def __init__(self, consumer: MemoryConsumer, queue: str, waiting: _Waiting) -> None:
        self._consumer: MemoryConsumer | None = consumer
        self._waiting = waiting
        self.queue = queue
        self.deliveries = waiting.deliveries
        self.payload = (
            mark_redelivered(waiting.envelope, waiting.deliveries) if waiting.deliveries else waiting.envelope
        )

    def ack(self) -> None:
        """The message is done with; a second settlement is ignored."""
        self._settle(requeue=False)

    def reject(self, *, requeue: bool) -> None:
        """Drop the message, or put it back to the front of its queue."""
        self._settle(requeue=requeue)

    def _settle(self, *, requeue: bool) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.settled.append((self._waiting.number, requeue))


class MemoryConsumer(Consumer):
    """Fetches from the broker of this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker: Broker | None = broker
        self.names: list[str] = []
        self.armed = False
        self.signal = _Signal()
        #: Numbers of messages to settle by the next `fetch` or `flush`, and whether each goes back.
        self.settled: list[tuple[int, bool]] = []
        self._loans: dict[int, tuple[str, _Waiting]] = {}
        self._turn = 0
        with broker.lock:
            broker.consumers.add(self)

    def _open(self) -> Broker:
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
        with broker.lock:
            self._settle(broker)
            found: list[Delivery] = []
            taken = dict.fromkeys(self.names, 0)
            self._turn += 1
            while len(found) < limit:
                choice = self._choose(broker, taken)
                if choice is None:
                    break
                waiting = heapq.heappop(broker.queues[choice])
                taken[choice] += 1
                self._loans[waiting.number] = (choice, waiting)
                found.append(MemoryDelivery(self, choice, waiting))
            self.armed = len(found) < limit
        return found

    def _choose(self, broker: Broker, taken: dict[str, int]) -> str | None:
        """Return the queue to take from: by priority, then by turns, beginning with another queue each time."""
        best: tuple[int, int, int, str] | None = None
        for number, name in enumerate(self.names):
            heap = broker.queues.get(name)
            if heap:
                rank = (heap[0].priority, taken[name], (self._turn + number) % len(self.names), name)
                if best is None or rank < best:
                    best = rank
        return None if best is None else best[3]

    def _settle(self, broker: Broker) -> None:
        settled, self.settled = self.settled, []
        back = {}
        for number, requeue in settled:
            loan = self._loans.pop(number, None)
            if loan is not None and requeue:
                back[number] = loan
        self._put_back(broker, back)

    def _put_back(self, broker: Broker, loans: Mapping[int, tuple[str, _Waiting]]) -> None:
        for name, waiting in loans.values():
            if name in broker.queues:
                heapq.heappush(broker.queues[name], waiting._replace(deliveries=waiting.deliveries + 1))
        broker.wake({name for name, _ in loans.values()})

    def flush(self) -> None:
        """Settle what is due."""
        broker = self._open()
        with broker.lock:
            self._settle(broker)

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
            self._put_back(broker, self._loans)
            self._loans = {}
            for name in self.names:
                broker.release(name)
        self.signal.close()


class MemoryMailbox(Mailbox):
    """Fan-out inside this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker: Broker | None = broker
        self.subscriptions: list[Queue] = []
        self.arrived: deque[tuple[str, Payload]] = deque()
        self.signal = _Signal()
        with broker.lock:
            broker.mailboxes.add(self)

    def _open(self) -> Broker:
        if self._broker is None:
            raise ConnectionLost("this mailbox is closed")
        return self._broker

    def subscribe(self, queue: Queue) -> None:
        """Receive what `queue` would: its exchange's messages, and those sent straight to its name."""
        broker = self._open()
        with broker.lock:
            if queue.exchange.name:
                broker.declare_exchange(queue.exchange)
            if not any(known == queue for known in self.subscriptions):
                self.subscriptions.append(queue)

    def receive(self) -> Sequence[tuple[str, Payload]]:
        """Return what has arrived, oldest first."""
        broker = self._open()
        self.signal.clear()
        with broker.lock:
            found = list(self.arrived)
            self.arrived.clear()
        return found

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish; what nobody takes is dropped."""
        self._open().publish(messages, required=False)

    def fileno(self) -> int:
        """Return the descriptor that is readable when something has arrived."""
        return self.signal.fileno()

    def close(self) -> None:
        """Unsubscribe and disconnect."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        with broker.lock:
            broker.mailboxes.discard(self)
        self.signal.close()


#: The brokers of this process by URL; weak: each lives as long as a transport or a face of it.
_brokers: Final[weakref.WeakValueDictionary[str, Broker]] = weakref.WeakValueDictionary()
_brokers_lock: Final = threading.Lock()


class MemoryTransport(Transport):
    """The broker of this process that its URL names."""

    traits = TransportTraits(fanout=True, priorities=True, shared=False, counts_deliveries=True)

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        super().__init__(url, options, settings)
        with _brokers_lock:
            broker = _brokers.get(url)
            if broker is None:
                broker = _brokers[url] = Broker()
        self._broker = broker

    @property
    def display_url(self) -> str:
        """The URL, which has no password."""
        return self.url

    def producer(self) -> MemoryProducer:
        """Return a producer."""
        return MemoryProducer(self._broker)

    def consumer(self) -> MemoryConsumer:
        """Return a consumer."""
        return MemoryConsumer(self._broker)

    def mailbox(self) -> MemoryMailbox:
        """Return a mailbox."""
        return MemoryMailbox(self._broker)

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue."""
        with self._broker.lock:
            found = self._broker.queues
            return {queue.name: len(found[queue.name]) if queue.name in found else None for queue in queues}

    def purge(self, queue: Queue) -> int:
        """Drop what waits in `queue`."""
        with self._broker.lock:
            waiting = self._broker.queues.get(queue.name, [])
            dropped = len(waiting)
            waiting.clear()
        return dropped

    def info(self) -> dict[str, Any]:
        """Return the connection's parameters; what only a server would have is empty."""
        return {
            "connect_timeout": 0,
            "heartbeat": 0,
            "hostname": None,
            "insist": False,
            "login_method": None,
            "port": None,
            "ssl": False,
            "transport": "memory",
            "transport_options": {},
            "uri_prefix": None,
            "userid": None,
            "virtual_host": self.url.partition("://")[2] or None,
        }
