"""The router: turns messages into commands for the server.

1. A message for the default exchange goes to the queue that its routing key names.
2. A message for a fan-out exchange goes to a channel.
3. A message for any other exchange goes to the queues of matching bindings. The router caches bindings for a second;
   it reads them again when none matches, because a reply queue may be newer than the cache.
4. `declare` writes bindings, as kombu does: twice for permanent queues, with a deadline for queues that expire.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from itertools import count
from time import monotonic
from typing import Final

from framework.api.transport import Queue
from framework.exceptions import PublishRefused
from framework.message import Outgoing, to_envelope
from framework_drivers.redis.cluster import RedisClusterConnection
from framework_drivers.redis.resp import Argument, Command, RedisConnection, ScriptCall
from framework_transports._routing import matches
from framework_transports.redis.keys import Binding, Keys
from framework_transports.redis.scripts import script

#: Seconds for which an exchange's bindings are cached.
REMEMBER: Final = 1.0
#: Messages in one command: enough to make commands cheap, few enough not to block the server.
GROUP: Final = 250
#: Bindings of queues that expire live at least this long (ms), or twice the queue's lifetime.
_BINDING_LIFE: Final = 3_600_000


class RedisRouter:
    """Routes messages of one connection. Not thread-safe: the owner holds the connection's lock."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[str, tuple[float, list[Binding]]] = {}
        #: Lifetimes in ms of the queues declared here that expire.
        self._expires: dict[str, int] = {}
        self._tags(os.getpid())

    def _tags(self, pid: int) -> None:
        # Looks like a uuid4 at a tenth of its cost: a random prefix for each process, then a counter.
        self._pid = pid
        self._random = str(uuid.uuid4())[:24]
        self._count = count(uuid.uuid4().int & 0xFFFF_FFFF)

    # ------------------------------------------------------------ publishing

    def commands(
        self, connection: RedisConnection | RedisClusterConnection, messages: Sequence[Outgoing], *, refuse: bool
    ) -> list[Command]:
        """Return the commands that publish `messages`, in order within each queue.

        A message that no binding matches raises `PublishRefused` with `refuse`, and is dropped without it.
        """
        if self._pid != os.getpid():
            self._tags(os.getpid())
        commands: list[Command] = []
        lists: dict[str, list[Argument]] = {}
        expiries: dict[str, int] = {}
        keys = self._keys
        random, counter = self._random, self._count
        for message in messages:
            payload = to_envelope(message, f"{random}{next(counter) & 0xFFFF_FFFF_FFFF:012x}")
            if not message.exchange:
                queues: Iterable[str] = (message.routing_key,)
            elif message.exchange_type == "fanout":
                commands.append(("PUBLISH", keys.channel(message.exchange, message.routing_key), payload))
                continue
            else:
                queues = self._route(connection, message.exchange, message.routing_key)
                if not queues and refuse:
                    raise PublishRefused(
                        f"no queue is bound to exchange {message.exchange!r} for the key {message.routing_key!r}, "
                        "and nothing was sent: define such a queue, or start a worker that consumes from it"
                    )
            for queue in queues:
                key = keys.list_for(queue, message.priority)
                group = lists.get(key)
                if group is None:
                    lists[key] = group = ["LPUSH", key]
                elif len(group) >= GROUP:
                    commands.append(tuple(group))
                    lists[key] = group = ["LPUSH", key]
                group.append(payload)
                if queue in self._expires:
                    expiries[key] = self._expires[queue]
        commands.extend(tuple(group) for group in lists.values())
        # PEXPIRE needs an existing list, so it comes last.
        commands.extend(("PEXPIRE", key, milliseconds) for key, milliseconds in expiries.items())
        return commands

    def _route(
        self, connection: RedisConnection | RedisClusterConnection, exchange: str, routing_key: str
    ) -> list[str]:
        found = self._known.get(exchange)
        now = monotonic()
        if found is not None and found[0] > now:
            queues = _matching(found[1], routing_key)
            if queues:
                return queues
        bindings = self._keys.read_members(connection.call("SMEMBERS", self._keys.bindings(exchange)))
        self._known[exchange] = (now + REMEMBER, bindings)
        return _matching(bindings, routing_key)

    # ------------------------------------------------------------ declaring

    def declare(self, queues: Iterable[Queue]) -> list[Command]:
        """Return the commands that bind `queues`."""
        commands: list[Command] = []
        for queue in queues:
            exchange = queue.exchange.name
            milliseconds = int(queue.expires * 1000) if queue.expires else 0
            if milliseconds:
                self._expires[queue.name] = milliseconds
            if not exchange or queue.broadcast:
                continue  # a subscription of its consumer is all that binds a broadcast queue
            self._known.pop(exchange, None)
            member = self._keys.member(queue)
            bindings = self._keys.bindings(exchange)
            if milliseconds and self._keys.cluster:
                # The key of all exchanges' deadlines is in another slot; kombu, which reads it, supports no clusters.
                commands.append(("SADD", bindings, member))
            elif milliseconds:
                life = max(2 * milliseconds, _BINDING_LIFE)
                commands.append(
                    ScriptCall(script("bind"), (bindings, self._keys.binding_deadlines), (member, exchange, life))
                )
            else:
                commands.append(("SADD", bindings, member))
                commands.append(("SADD", self._keys.permanent_bindings(exchange), member))
        return commands


def _matching(bindings: Iterable[Binding], routing_key: str) -> list[str]:
    # A queue that is bound twice gets one copy.
    found = {
        binding.queue: None
        for binding in bindings
        if (matches(binding.routing_key, routing_key) if binding.pattern else binding.routing_key == routing_key)
    }
    return list(found)
