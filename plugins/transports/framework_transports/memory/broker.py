"""The broker of one URL: queues, exchanges and subscriptions under one lock, shared by threads.

1. Declares queues and exchanges; drops auto-delete queues without consumers.
2. Routes and stores messages, all of a batch or none, and wakes their consumers and mailboxes.
3. Parks messages, and moves them back to their queues when they are due.
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
    """A message in a queue; queues are ordered by the fields, in their order."""

    priority: int
    number: int
    deliveries: int
    envelope: bytes


class MemoryBroker:
    """Queues, exchanges, consumers and mailboxes, under one lock. Consumers and mailboxes are held weakly."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: dict[str, list[Waiting]] = {}
        #: Parked messages by queue; only queues that have any.
        self.parked: dict[str, Parked] = {}
        self.auto_delete: set[str] = set()
        self.exchanges: dict[str, str] = {}
        self.bindings: dict[str, dict[tuple[str, str], None]] = {}
        self.consumers: weakref.WeakSet[MemoryConsumer] = weakref.WeakSet()
        self.mailboxes: weakref.WeakSet[MemoryMailbox] = weakref.WeakSet()
        self._numbers = count()

    def declare(self, queue: Queue) -> None:
        """Create `queue`, its exchange and its binding if they do not exist."""
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
                f"exchange {exchange.name!r} has type {exchange.type!r}, which this broker does not support: "
                f"use one of {', '.join(sorted(TYPES))}"
            )
        found = self.exchanges.setdefault(exchange.name, exchange.type)
        if found != exchange.type:
            raise TransportError(
                f"exchange {exchange.name!r} is of type {found!r} in the broker and {exchange.type!r} in the settings: "
                "use the broker's type, or another name"
            )

    def release(self, name: str) -> None:
        """Drop the queue `name` if it is auto-delete and has no consumer."""
        if name in self.auto_delete and not any(name in consumer.names for consumer in self.consumers):
            self.auto_delete.discard(name)
            self.queues.pop(name, None)
            self.parked.pop(name, None)
            for bound in self.bindings.values():
                for key in [key for key in bound if key[0] == name]:
                    del bound[key]

    def publish(self, messages: Sequence[Outgoing], *, required: bool) -> int:
        """Route and store all of `messages`, or none if one is refused; return the number of copies to mailboxes."""
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
        """Park a message of the queue `name` until `until` (s since the epoch); `recall` finds it by `key`."""
        if name in self.queues:
            self.parked.setdefault(name, Parked()).put(waiting, until, key)
            # The queue's consumers must update their `due_at`.
            self.wake({name})

    def unpark(self, names: Iterable[str]) -> float | None:
        """Move due messages back to the queues `names`; return the next due time, on the clock of `monotonic`."""
        now = time.time()
        first: float | None = None
        for name in names:
            parked = self.parked.get(name)
            if parked is None:
                continue
            due_now = list(parked.due(now))
            for waiting in due_now:
                heapq.heappush(self.queues[name], waiting)
            if (due := parked.first()) is None:
                del self.parked[name]
            else:
                first = due if first is None else min(first, due)
            if due_now:
                self.wake({name})
        return None if first is None else time.monotonic() + first - now

    def recall(self, names: Iterable[str], keys: Sequence[str]) -> list[tuple[str, Waiting]]:
        """Remove and return the messages of the queues `names` parked under `keys`, each with its queue's name."""
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
