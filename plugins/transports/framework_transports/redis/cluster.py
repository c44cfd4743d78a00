"""Redis Cluster: the consumer and the mailbox.

1. `ClusterConsumer` declares over all nodes, and makes a `RedisConsumer` for each queue, on the node that serves it: a
   queue's lists and leases share a slot, so every script runs on one node. One epoll watches their descriptors.
2. `ClusterMailbox` listens on one node, which receives all channels, and sends to the node of each key.
"""

from __future__ import annotations

import select
from collections.abc import Collection, Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from framework.api.originals import original
from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import TransportError
from framework.message import Outgoing
from framework_drivers.redis.cluster import RedisClusterConnection
from framework_drivers.redis.resp import RedisConnection, RedisConnectionSettings
from framework_drivers.redis.url import RedisAddress
from framework_transports.redis.consumer import RedisConsumer
from framework_transports.redis.keys import Keys
from framework_transports.redis.mailbox import RedisMailbox
from framework_transports.redis.options import RedisOptions
from framework_transports.redis.router import RedisRouter

#: Seconds between two checks of every node's connection.
_CHECK_INTERVAL: Final = 1.0


class _Part(RedisConsumer):
    """Consumes from one queue, which `ClusterConsumer` has declared."""

    def check(self) -> None:
        """Find out whether the connection is lost, without a round trip."""
        self.flush()
        self._wake_if_changed()

    def _declare(self, queue: Queue) -> None:
        pass


class ClusterConsumer(Consumer):
    """Fetches from any number of queues of a cluster."""

    def __init__(
        self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys, options: RedisOptions
    ) -> None:
        self._settings = settings
        self._keys = keys
        # Celery's workers do not support clusters, so they left nothing to take over.
        self._options = msgspec.structs.replace(options, visibility_timeout=0.0)
        # More often than the leases need: only reading finds a lost node, an epoll does not report every one.
        self.heartbeat_interval = min(_CHECK_INTERVAL, options.lease / 3)
        self._renew_at = 0.0
        self._connection = RedisClusterConnection(addresses, settings)
        self._router = RedisRouter(keys)
        self._parts: dict[str, _Part] = {}
        self._turn = 0
        try:
            self._epoll = _epoll()
        except TransportError:
            self._connection.close()
            raise

    def _part(self, name: str) -> _Part:
        part = self._parts.get(name)
        if part is None:
            node = self._connection.node_of(self._keys.lists(name)[0])
            part = _Part([node], self._settings, self._keys, self._options)
            self._parts[name] = part
            self._epoll.register(part.fileno(), select.POLLIN)
        return part

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and start consuming from it."""
        commands = self._router.declare([queue])
        if commands:
            self._connection.run(commands)
        self._part(queue.name).add_queue(queue)

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; fetched messages stay reserved."""
        if name in self._parts:
            self._parts[name].cancel_queue(name)

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over the unacknowledged messages of `lost`, queue by queue."""
        adopted: list[Delivery] = []
        if isinstance(lost, ClusterConsumer):
            for name, part in lost._parts.items():
                own = [delivery for delivery in deliveries if delivery.queue == name]
                adopted += self._part(name).adopt(part, own)
        return adopted

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Settle and reserve on each node; each queue is the first in turn."""
        parts = list(self._parts.values())
        self._turn = (self._turn + 1) % max(1, len(parts))
        found: list[Delivery] = []
        for part in (*parts[self._turn :], *parts[: self._turn]):
            if len(found) < limit:
                found += part.fetch(limit - len(found))
            else:
                part.flush()
        self.due_at = min((part.due_at for part in parts if part.due_at is not None), default=None)
        return found

    def flush(self) -> None:
        """Send settlements now."""
        for part in self._parts.values():
            part.flush()

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Settle, and reserve messages parked under `keys`, queue by queue."""
        return [delivery for part in self._parts.values() for delivery in part.recall(keys)]

    def fileno(self) -> int:
        """Return the descriptor that turns readable when any queue's descriptor does."""
        return int(self._epoll.fileno())

    def heartbeat(self) -> None:
        """Send the heartbeats of the parts when they are due; else check the connections."""
        due = monotonic() >= self._renew_at
        for part in self._parts.values():
            if due:
                self._renew_at = monotonic() + part.heartbeat_interval
                part.heartbeat()
            else:
                part.check()

    def close(self, *, requeue: bool) -> None:
        """Settle, requeue unacknowledged messages if `requeue`, disconnect."""
        for part in self._parts.values():
            part.close(requeue=requeue)
        self._connection.close()
        self._epoll.close()


class ClusterMailbox(RedisMailbox):
    """Listens on one connection and sends on others."""

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys) -> None:
        self._cluster = RedisClusterConnection(addresses, settings)
        super().__init__([self._cluster.node_of("")], settings, keys)

    def subscribe(self, queue: Queue) -> None:
        """Listen to `queue`. Raises `TransportError` for a list on another node than the lists before it."""
        if not (queue.exchange.type == "fanout" and queue.exchange.name):
            node = self._cluster.node_of(self._keys.list_for(queue.name, 0))
            current = self._connection.address
            if (node.host, node.port) != (current.host, current.port):
                if self._lists or self._patterns:
                    raise TransportError(f"queue {queue.name!r} is on another node than the mailbox's other queues")
                self._connection.close()
                self._connection = RedisConnection([node], self._settings, self._on_push)
                self._pushes = self._connection.watch_keys()
        super().subscribe(queue)

    def _sending_connection(self) -> Any:
        return self._cluster

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish; messages without a subscriber are dropped."""
        if commands := self._commands(self._sending_connection(), messages):
            self._cluster.run(commands)
        self._wake_if_pending()

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish; return None, because a node counts only its own subscribers."""
        self.send(messages)
        return None

    def close(self) -> None:
        """Disconnect, and delete the lists and bindings of exclusive queues."""
        super().close()
        self._cluster.close()


def _epoll() -> Any:
    """Return an epoll, also where gevent or eventlet has removed it from `select`."""
    try:
        return original("select").epoll()
    except AttributeError:
        raise TransportError("this platform has no epoll: workers consume from a Redis Cluster on Linux only") from None
