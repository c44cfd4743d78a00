"""Redis Cluster: a consumer for each queue, on the node that serves it, looking like one.

1. `ClusterConsumer` declares over all nodes, and makes a `RedisConsumer` for each queue: its lists and leases share a
   slot, so every script runs on one node. Their descriptors are gathered in one epoll.
2. `ClusterMailbox` listens on one node, which hears all channels, and sends to the node of each key.
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

#: Seconds between two looks whether every node is there.
_GLANCE: Final = 1.0


class _Part(RedisConsumer):
    """Consumes from one queue, which has been declared."""

    def _declare(self, queue: Queue) -> None:
        pass


class ClusterConsumer(Consumer):
    """Fetches from any number of queues of a cluster."""

    def __init__(
        self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys, options: RedisOptions
    ) -> None:
        self._settings = settings
        self._keys = keys
        # What Celery's workers left lies in other slots; and they know no clusters.
        self._options = msgspec.structs.replace(options, visibility_timeout=0.0)
        # Oftener than the leases want: an epoll does not tell of a node that is gone while nobody reads from it.
        self.heartbeat_interval = min(_GLANCE, options.lease / 3)
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
        """Declare `queue` and consume from it too."""
        commands = self._router.declare([queue])
        if commands:
            self._connection.run(commands)
        self._part(queue.name).add_queue(queue)

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; what was fetched stays on loan."""
        if name in self._parts:
            self._parts[name].cancel_queue(name)

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over what `lost` had on loan, queue by queue."""
        adopted: list[Delivery] = []
        if isinstance(lost, ClusterConsumer):
            for name, part in lost._parts.items():
                own = [delivery for delivery in deliveries if delivery.queue == name]
                adopted += self._part(name).adopt(part, own)
        return adopted

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Settle and reserve on each node, the queues taking turns to be first."""
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
        """Settle, and lease what is parked under `keys`, queue by queue."""
        return [delivery for part in self._parts.values() for delivery in part.recall(keys)]

    def fileno(self) -> int:
        """Return the descriptor that turns readable when that of any queue does."""
        return int(self._epoll.fileno())

    def heartbeat(self) -> None:
        """Renew the leases and put back what dead workers left when a third of the lease is over; else only look."""
        due = monotonic() >= self._renew_at
        if due:
            self._renew_at = monotonic() + self._options.lease / 3
        for part in self._parts.values():
            if due:
                part.heartbeat()
            else:
                part.flush()

    def close(self, *, requeue: bool) -> None:
        """Settle, give back what is on loan if `requeue`, disconnect."""
        for part in self._parts.values():
            part.close(requeue=requeue)
        self._connection.close()
        self._epoll.close()


class ClusterMailbox(RedisMailbox):
    """One connection that listens; it sends over others."""

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys) -> None:
        self._cluster = RedisClusterConnection(addresses, settings)
        super().__init__([self._cluster.node_of("")], settings, keys)

    def subscribe(self, queue: Queue) -> None:
        """Listen to `queue`; a list is watched on its own node, so one mailbox has lists of one node."""
        if not (queue.exchange.type == "fanout" and queue.exchange.name):
            node = self._cluster.node_of(self._keys.list_for(queue.name, 0))
            current = self._connection.address
            if (node.host, node.port) != (current.host, current.port):
                if self._lists or self._patterns:
                    raise TransportError(f"queue {queue.name!r} is on another node than what this mailbox listens to")
                self._connection.close()
                self._connection = RedisConnection([node], self._settings, self._on_push)
                self._pushes = self._connection.watch_keys()
        super().subscribe(queue)

    def _sending_link(self) -> Any:
        return self._cluster

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish; what nobody listens to is dropped."""
        if commands := self._commands(self._sending_link(), messages):
            self._cluster.run(commands)
        self._pass_on()

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish; a node knows its own subscribers only, so nobody can tell how many have heard it."""
        self.send(messages)
        return None

    def close(self) -> None:
        """Disconnect; lists and bindings of queues that are ours alone go with us."""
        super().close()
        self._cluster.close()


def _epoll() -> Any:
    """Return an epoll, also where a green library has taken it out of `select`."""
    try:
        return original("select").epoll()
    except AttributeError:
        raise TransportError("a worker consumes from a Redis Cluster on Linux only, whose epoll it needs") from None
