"""A Redis Cluster as one link.

1. `slot_of` says in which of the 16,384 slots a key lives; what is between the first braces decides, if anything is.
2. `RedisClusterConnection` asks a node of the URL who serves which slots, and sends each command to the node of its
   first key. The keys of one command, or of one script call, must share a slot: that is their owner's affair.
3. A slot that has moved, and a node that is gone, are `ConnectionLost`: the next link asks anew.

Source: the cluster specification at redis.io.
"""

from __future__ import annotations

import binascii
import logging
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from framework.exceptions import ConnectionLost
from framework_drivers.redis.resp import Argument, Command, RedisConnection, RedisConnectionSettings, Script, ScriptCall
from framework_drivers.redis.url import RedisAddress

logger = logging.getLogger(__name__)

SLOTS: Final = 16_384
#: Commands without a key, which may go anywhere, and those whose first argument is none.
_ANYWHERE: Final = frozenset({"PING", "PUBLISH", "INFO", "TIME", "SCRIPT"})
_BEFORE: Final = "MULTI"
_AFTER: Final = "EXEC"


def slot_of(key: str | bytes) -> int:
    """Return the slot of `key`."""
    data = key if isinstance(key, bytes) else key.encode()
    start = data.find(b"{")
    if start >= 0 and (end := data.find(b"}", start + 1)) > start + 1:
        data = data[start + 1 : end]
    return binascii.crc_hqx(data, 0) % SLOTS


class RedisClusterConnection:
    """Links to the masters of a cluster, made when first used. Raises `ConnectionLost` when no node answers."""

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings) -> None:
        self._settings = settings
        self.pid = os.getpid()
        self.closed = False
        self._connections: dict[tuple[str, int], RedisConnection] = {}
        seeds = [_plain(address) for address in addresses]
        seed = RedisConnection(seeds, settings)
        self.address = seed.address
        try:
            ranges = sorted(seed.call("CLUSTER", "SLOTS"), key=lambda found: int(found[0]))
        finally:
            seed.close()
        if not ranges:
            raise ConnectionLost(f"{self.address.display} serves no slots yet")
        self._starts = [int(found[0]) for found in ranges]
        self._ends = [int(found[1]) for found in ranges]
        self._nodes = [self._node(found[2]) for found in ranges]

    def _node(self, master: Sequence[Any]) -> tuple[str, int]:
        host = master[0].decode() if isinstance(master[0], bytes) else master[0]
        # A node that does not know its own name is the one that was asked.
        return (host or self.address.host, int(master[1]))

    # ------------------------------------------------------------ nodes

    def node_of(self, key: str | bytes) -> RedisAddress:
        """Return the address of the master that serves `key`. Raises `ConnectionLost` when nobody does."""
        slot = slot_of(key)
        place = bisect_right(self._starts, slot) - 1
        if place < 0 or slot > self._ends[place]:
            raise ConnectionLost(f"nobody serves slot {slot} of the cluster at {self.address.display}")
        host, port = self._nodes[place]
        return msgspec.structs.replace(self.address, host=host, port=port)

    def _connection(self, address: RedisAddress) -> RedisConnection:
        name = (address.host, address.port)
        connection = self._connections.get(name)
        if connection is None:
            self._connections[name] = connection = RedisConnection([address], self._settings)
        return connection

    # ------------------------------------------------------------ commands

    def call(self, *arguments: Argument) -> Any:
        """Run one command and return its reply. Raises `ServerError`, `ConnectionLost`."""
        return self.run([arguments])[0]

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run `commands`, those of each node in their order and in one round trip; return their replies."""
        groups: dict[tuple[str, int], list[int]] = {}
        addresses: dict[tuple[str, int], RedisAddress] = {}
        for index, address in enumerate(self._places(commands)):
            name = (address.host, address.port)
            addresses[name] = address
            groups.setdefault(name, []).append(index)
        replies: list[Any] = [None] * len(commands)
        try:
            for name, indexes in groups.items():
                found = self._connection(addresses[name]).run([commands[index] for index in indexes])
                for index, reply in zip(indexes, found, strict=True):
                    replies[index] = reply
        except ConnectionLost:
            self.close()
            raise
        return replies

    def _places(self, commands: Sequence[Command]) -> list[RedisAddress]:
        places: list[RedisAddress | None] = []
        for command in commands:
            key = command.keys[0] if isinstance(command, ScriptCall) else _key(command)
            places.append(None if key is None else self.node_of(key if isinstance(key, bytes) else str(key)))
        anywhere = next((place for place in places if place is not None), self.node_of(""))
        found: list[RedisAddress] = []
        for index, (command, place) in enumerate(zip(commands, places, strict=True)):
            if place is None and command[0] == _BEFORE:
                place = next(later for later in places[index:] if later is not None)
            found.append(place or (found[-1] if found else anywhere))
        return found

    def load(self, scripts: Sequence[Script]) -> None:
        """Do nothing: each node is taught a script when it turns out not to know it."""

    @property
    def unanswered(self) -> int:
        """Nothing is sent without waiting for its answer."""
        return 0

    # ------------------------------------------------------------ life

    def stale(self) -> bool:
        """Whether a node has hung up."""
        return self.closed or any(connection.stale() for connection in self._connections.values())

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self.closed = True
        for connection in self._connections.values():
            connection.close()


def _key(command: tuple[Argument, ...]) -> str | bytes | None:
    name = command[0]
    if len(command) < 2 or name in _ANYWHERE or name in (_BEFORE, _AFTER):
        return None
    key = command[1]
    return key if isinstance(key, (str, bytes)) else str(key)


def _plain(address: RedisAddress) -> RedisAddress:
    return msgspec.structs.replace(address, scheme="rediss" if address.tls else "redis")
