"""Connections to a Redis Cluster, used like one connection.

1. `slot_of` returns which of the 16,384 slots holds a key; a hash tag, the text between its first braces, decides.
2. `RedisClusterConnection` reads the map of slots from a node of the URL, and sends each command to the node of its
   first key. The caller makes sure that all keys of a command, or of a script call, share a slot.
3. A moved slot or a lost node raises `ConnectionLost`: the next connection reads the map again.

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
#: Commands whose first argument is not a key: any node can run them.
_KEYLESS: Final = frozenset({"PING", "PUBLISH", "INFO", "TIME", "SCRIPT"})
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
    """Connections to the masters of a cluster, opened at first use. Raises `ConnectionLost` when no node answers."""

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
            raise ConnectionLost(f"{self.address.display} has no slots yet: create the cluster, or wait until it is up")
        self._starts = [int(found[0]) for found in ranges]
        self._ends = [int(found[1]) for found in ranges]
        self._nodes = [self._node(found[2]) for found in ranges]

    def _node(self, master: Sequence[Any]) -> tuple[str, int]:
        host = master[0].decode() if isinstance(master[0], bytes) else master[0]
        # A node reports no host for itself while it does not know its own address.
        return (host or self.address.host, int(master[1]))

    # ------------------------------------------------------------ nodes

    def node_of(self, key: str | bytes) -> RedisAddress:
        """Return the address of the master that serves `key`. Raises `ConnectionLost` when no node does."""
        slot = slot_of(key)
        place = bisect_right(self._starts, slot) - 1
        if place < 0 or slot > self._ends[place]:
            raise ConnectionLost(f"no node serves slot {slot} of the cluster at {self.address.display}")
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
        """Run `commands`, in order and in one round trip for each node; return their replies."""
        groups: dict[tuple[str, int], list[int]] = {}
        addresses: dict[tuple[str, int], RedisAddress] = {}
        for index, address in enumerate(self._addresses(commands)):
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

    def _addresses(self, commands: Sequence[Command]) -> list[RedisAddress]:
        nodes: list[RedisAddress | None] = []
        for command in commands:
            key = command.keys[0] if isinstance(command, ScriptCall) else _key(command)
            nodes.append(None if key is None else self.node_of(key if isinstance(key, bytes) else str(key)))
        default = next((node for node in nodes if node is not None), self.node_of(""))
        found: list[RedisAddress] = []
        for index, (command, node) in enumerate(zip(commands, nodes, strict=True)):
            if node is None and command[0] == _BEFORE:
                node = next(later for later in nodes[index:] if later is not None)
            found.append(node or (found[-1] if found else default))
        return found

    def load(self, scripts: Sequence[Script]) -> None:
        """Do nothing: `run` sends a script in full to each node that does not have it."""

    @property
    def unanswered(self) -> int:
        """Always 0, because every command waits for its reply."""
        return 0

    # ------------------------------------------------------------ closing

    def stale(self) -> bool:
        """Whether a node has closed its connection."""
        return self.closed or any(connection.stale() for connection in self._connections.values())

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self.closed = True
        for connection in self._connections.values():
            connection.close()


def _key(command: tuple[Argument, ...]) -> str | bytes | None:
    name = command[0]
    if len(command) < 2 or name in _KEYLESS or name in (_BEFORE, _AFTER):
        return None
    key = command[1]
    return key if isinstance(key, (str, bytes)) else str(key)


def _plain(address: RedisAddress) -> RedisAddress:
    return msgspec.structs.replace(address, scheme="rediss" if address.tls else "redis")
