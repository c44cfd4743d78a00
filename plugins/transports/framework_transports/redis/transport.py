"""The Redis transport: kombu's layout, with leases for unacknowledged messages.

1. Reads the URL and the options, and makes producers, consumers, mailboxes and rate limits.
2. Counts and purges queues, and describes the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from framework.api.transport import Consumer, Peeked, Queue, Transport, TransportTraits
from framework_drivers.redis.resp import Command
from framework_drivers.redis.sentinel import check
from framework_drivers.redis.shared_connection import connect
from framework_drivers.redis.url import RedisAddress, parse
from framework_transports.redis.cluster import ClusterConsumer, ClusterMailbox
from framework_transports.redis.consumer import RedisConsumer
from framework_transports.redis.keys import Keys
from framework_transports.redis.mailbox import RedisMailbox
from framework_transports.redis.options import RedisOptions
from framework_transports.redis.producer import RedisProducer
from framework_transports.redis.shared_rate_limit import RedisSharedRateLimit

_CONNECT_TIMEOUT = 5.0


class RedisTransport(Transport):
    """Transport for Redis 5 or newer; idle workers poll on Redis 5, and are woken by the server from Redis 6 on."""

    traits: ClassVar[TransportTraits] = TransportTraits(
        fanout=True, events_exchange="fanout", shared_rate_limit=True, parks=True, recalls=True
    )
    options_type: ClassVar[type[msgspec.Struct]] = RedisOptions
    options_table: ClassVar[str] = "redis"

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        """Raises `ConfigError` for a URL that is not a Redis URL, and for a Sentinel URL without ``master_name``."""
        super().__init__(url, options, settings)
        own = options if isinstance(options, RedisOptions) else RedisOptions()
        self.options: RedisOptions = own
        self._addresses: list[RedisAddress] = parse(url)
        self._connection_settings = own.connection_settings(
            own.socket_connect_timeout or settings.get("connection_timeout") or _CONNECT_TIMEOUT,
            settings.get("use_ssl"),
        )
        check(self._addresses, own.master_name)
        self._cluster = self._addresses[0].cluster
        self._keys = Keys(own, self._addresses[0].db, cluster=self._cluster)

    @property
    def display_url(self) -> str:
        """The servers' URLs, without passwords."""
        return ";".join(address.display for address in self._addresses)

    def producer(self) -> RedisProducer:
        """Connect and return a producer."""
        return RedisProducer(self._addresses, self._connection_settings, self._keys)

    def consumer(self) -> Consumer:
        """Connect and return a consumer."""
        if self._cluster:
            return ClusterConsumer(self._addresses, self._connection_settings, self._keys, self.options)
        return RedisConsumer(self._addresses, self._connection_settings, self._keys, self.options)

    def mailbox(self) -> RedisMailbox:
        """Connect and return a mailbox."""
        if self._cluster:
            return ClusterMailbox(self._addresses, self._connection_settings, self._keys)
        return RedisMailbox(self._addresses, self._connection_settings, self._keys)

    def shared_rate_limit(self) -> RedisSharedRateLimit:
        """Connect and return a shared rate limit."""
        return RedisSharedRateLimit(self._addresses, self._connection_settings, self._keys)

    # ------------------------------------------------------------ administration

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue; None for an empty queue without a binding."""
        wanted = list(queues)
        lists = [self._keys.lists(queue.name) for queue in wanted]
        commands: list[Command] = [("LLEN", key) for keys in lists for key in keys]
        commands += [("SMEMBERS", self._keys.bindings(queue.exchange.name)) for queue in wanted]
        connection = connect(self._addresses, self._connection_settings)
        try:
            replies = iter(connection.run(commands))
            counts = [sum(next(replies) for _ in keys) for keys in lists]
            bound = [{binding.queue for binding in self._keys.read_members(next(replies))} for _ in wanted]
        finally:
            connection.close()
        return {
            queue.name: None if not count and queue.exchange.name and queue.name not in names else count
            for queue, count, names in zip(wanted, counts, bound, strict=True)
        }

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        names = [queue.name for queue in queues]
        connection = connect(self._addresses, self._connection_settings)
        try:
            counts = connection.run([("ZCARD", self._keys.parked(name)) for name in names]) if names else []
        finally:
            connection.close()
        return dict(zip(names, counts, strict=True))

    def peek(self, queue: Queue, limit: int, *, parked: bool = False) -> Sequence[Peeked]:
        """Return the first waiting or parked messages of `queue`."""
        connection = connect(self._addresses, self._connection_settings)
        try:
            if not parked:
                # The next message is the last of a list.
                lists = connection.run([("LRANGE", key, -limit, -1) for key in self._keys.lists(queue.name)])
                return [Peeked(payload) for found in lists for payload in reversed(found)][:limit]
            times = connection.call("ZRANGE", self._keys.parked(queue.name), 0, limit - 1, "WITHSCORES")
            # RESP2: members and scores in turn.
            due = dict(zip(times[::2], times[1::2], strict=True))
            values = connection.call("HMGET", self._keys.parked_payloads(queue.name), *due) if due else []
        finally:
            connection.close()
        # A value is <list>:<payload>; one that has come due meanwhile is gone.
        return [
            Peeked(value.partition(b":")[2], float(score) / 1000)
            for value, score in zip(values, due.values(), strict=True)
            if value is not None
        ]

    def purge(self, queue: Queue) -> int:
        """Drop waiting and parked messages, and return how many there were."""
        lists = self._keys.lists(queue.name)
        parked, payloads = self._keys.parked(queue.name), self._keys.parked_payloads(queue.name)
        connection = connect(self._addresses, self._connection_settings)
        try:
            replies = connection.run(
                [
                    ("MULTI",),
                    *(("LLEN", key) for key in lists),
                    ("ZCARD", parked),
                    ("DEL", *lists, parked, payloads),
                    ("EXEC",),
                ]
            )
        finally:
            connection.close()
        return int(sum(replies[-1][:-1]))

    def info(self) -> dict[str, Any]:
        """Return the connection's parameters, without the password."""
        first = self._addresses[0]
        return {
            "hostname": first.path or first.host,
            "userid": first.username,
            "virtual_host": str(first.db),
            "port": None if first.path else first.port,
            "insist": False,
            "ssl": bool(first.tls or self.settings.get("use_ssl")),
            "transport": "redis",
            "connect_timeout": self._connection_settings.connect_timeout,
            # sentinel_kwargs may hold a password.
            "transport_options": msgspec.to_builtins(msgspec.structs.replace(self.options, sentinel_kwargs={})),
            "login_method": self.settings.get("login_method"),
            "uri_prefix": "redis" if first.path else None,
            "heartbeat": self.settings.get("heartbeat") or 0,
            "failover_strategy": self.settings.get("failover_strategy") or "round-robin",
            "alternates": [address.display for address in self._addresses[1:]],
        }
