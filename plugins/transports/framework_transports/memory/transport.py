"""The transport: finds or creates the broker of a URL."""

from __future__ import annotations

import heapq
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from framework.api.transport import Peeked, Queue, Transport, TransportTraits
from framework.server_url import mask
from framework_transports.memory.broker import MemoryBroker
from framework_transports.memory.consumer import MemoryConsumer
from framework_transports.memory.mailbox import MemoryMailbox
from framework_transports.memory.producer import MemoryProducer

#: The brokers of this process by URL; weak, so that a broker ends with its last user.
_brokers: Final[weakref.WeakValueDictionary[str, MemoryBroker]] = weakref.WeakValueDictionary()
_brokers_lock: Final = threading.Lock()


class MemoryTransport(Transport):
    """Transport for the brokers of this process, one for each URL."""

    traits = TransportTraits(fanout=True, shared=False, parks=True, recalls=True)

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        super().__init__(url, options, settings)
        with _brokers_lock:
            broker = _brokers.get(url)
            if broker is None:
                broker = _brokers[url] = MemoryBroker()
        self._broker = broker

    @property
    def display_url(self) -> str:
        """The URL, with any password masked."""
        return mask(self.url)

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

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        with self._broker.lock:
            return {queue.name: len(self._broker.parked.get(queue.name, ())) for queue in queues}

    def peek(self, queue: Queue, limit: int, *, parked: bool = False) -> Sequence[Peeked]:
        """Return the first waiting or parked messages of `queue`."""
        with self._broker.lock:
            if not parked:
                waiting = heapq.nsmallest(limit, self._broker.queues.get(queue.name, ()))
                return [Peeked(message.envelope) for message in waiting]
            kept = self._broker.parked.get(queue.name)
            return [] if kept is None else kept.nearest(limit)

    def purge(self, queue: Queue) -> int:
        """Drop waiting and parked messages of `queue`, and return how many there were."""
        with self._broker.lock:
            waiting = self._broker.queues.get(queue.name, [])
            dropped = len(waiting) + len(self._broker.parked.pop(queue.name, ()))
            waiting.clear()
        return dropped

    def info(self) -> dict[str, Any]:
        """Return the connection's parameters; those of a server are empty."""
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
            "virtual_host": self.display_url.partition("://")[2] or None,
        }
