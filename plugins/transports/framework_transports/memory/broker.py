"""The broker of one name: queues, exchanges and subscriptions under one lock, shared by threads.

1. Declare queues and exchanges; drop what was to live only as long as its consumers.
2. Route and keep messages, all of a batch or none, and wake whoever waits for them.
3. Park messages, and put them back into their queues when they are due.
"""

from __future__ import annotations

import heapq
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from framework.api.transport import Exchange, Queue
from framework.exceptions import PublishRefused, TransportError
from framework.message import Outgoing, to_envelope
from framework_transports._routing import TYPES, routes
from framework_transports.memory.parking import Parked

if TYPE_CHECKING:
    from framework_transports.memory.consumer import MemoryConsumer
    from framework_transports.memory.mailbox import MemoryMailbox


class Waiting(NamedTuple):
    """A message in a queue; the order of the fields is the order of service."""

    priority: int
    number: int
    deliveries: int
    envelope: bytes


class MemoryBroker:
    """Everything, under one lock. Subscribers are held weakly: one that was merely dropped is gone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: dict[str, list[Waiting]] = {}
        #: Messages for later by queue; only queues that have any.
        self.parked: dict[str, Parked] = {}
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
            self.parked.pop(name, None)
            for bound in self.bindings.values():
                for key in [key for key in bound if key[0] == name]:
                    del bound[key]

    def publish(self, messages: Sequence[Outgoing], *, required: bool) -> int:
        """Route and keep all of `messages`, or none of them if one is refused; return how often mailboxes got one."""
        envelopes = [to_envelope(message, str(uuid4())) for message in messages]
        with self.lock:
            targets = [self._targets(message, required=required) for message in messages]
            for (queues, boxes), message, envelope in zip(targets, messages, envelopes, strict=True):
                for name in queues:
                    waiting = Waiting(message.priority or 0, next(self._numbers), 0, envelope)
                    heapq.heappush(self.queues.setdefault(name, []), waiting)
                for mailbox, exchange in boxes:
                    mailbox.arrived.append((exchange, envelope))
                    mailbox.signal.set()
            self.wake({name for queues, _ in targets for name in queues})
        return sum(len(boxes) for _, boxes in targets)

    def _targets(self, message: Outgoing, *, required: bool) -> tuple[list[str], list[tuple[MemoryMailbox, str]]]:
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
        fanout = "fanout" in (kind, message.exchange_type)
        if queues or boxes or not required or message.delivery_mode != 2 or fanout:
            return queues, boxes
        if exchange or not key:
            known = "which does not exist" if kind is None else "where no queue is bound to it"
            raise PublishRefused(
                f"nothing takes a message with routing key {key!r} to exchange {exchange!r}, {known}: "
                "declare a queue for it"
            )
        return [key], boxes

    def park(self, name: str, waiting: Waiting, until: float, key: str) -> None:
        """Keep a message for the queue `name` until then (s since the epoch); `recall` finds it by `key`."""
        if name in self.queues:
            self.parked.setdefault(name, Parked()).put(waiting, until, key)
            # They have to learn when it comes due.
            self.wake({name})

    def unpark(self, names: Iterable[str]) -> float | None:
        """Put what is due back into the queues `names`; return when the next one is due, as `monotonic` counts."""
        now = time.time()
        first: float | None = None
        for name in names:
            parked = self.parked.get(name)
            if parked is None:
                continue
            back = list(parked.due(now))
            for waiting in back:
                heapq.heappush(self.queues[name], waiting)
            if (due := parked.first()) is None:
                del self.parked[name]
            else:
                first = due if first is None else min(first, due)
            if back:
                self.wake({name})
        return None if first is None else time.monotonic() + first - now

    def recall(self, names: Iterable[str], keys: Sequence[str]) -> list[tuple[str, Waiting]]:
        """Take out what is parked under `keys` for the queues `names`; return it with its queues' names."""
        return [
            (name, waiting)
            for name in names
            if (parked := self.parked.get(name)) is not None
            for key in keys
            for waiting in parked.take(key)
        ]

    def wake(self, names: set[str]) -> None:
        """Wake the consumers that wait for any of `names`."""
        for consumer in self.consumers:
            if consumer.armed and not names.isdisjoint(consumer.names):
                consumer.armed = False
                consumer.signal.set()
