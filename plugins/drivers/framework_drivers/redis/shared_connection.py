"""Connections to whatever a Redis URL names: one server, the master that Sentinels know, or a cluster.

1. `connect` gives a `RedisConnection`, or a `RedisClusterConnection`.
2. `SharedRedisConnection` lets several threads use one of them, across forks and idle losses.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from framework.exceptions import ConnectionLost, TransportError
from framework_drivers.redis.cluster import RedisClusterConnection
from framework_drivers.redis.resp import RedisConnection, RedisConnectionSettings
from framework_drivers.redis.url import RedisAddress

if TYPE_CHECKING:
    from framework_drivers.redis.cluster import RedisClusterConnection


def connect(
    addresses: Sequence[RedisAddress], settings: RedisConnectionSettings
) -> RedisConnection | RedisClusterConnection:
    """Connect to the server, or to the cluster, that `addresses` name. Raises `ConnectionLost`."""
    if addresses[0].cluster:
        return RedisClusterConnection(addresses, settings)
    return RedisConnection(addresses, settings)


class SharedRedisConnection:
    """One link that several threads take turns with; connects when first used, and again after a fork or an idle loss.

    Not a pool: a command lasts one round trip, and what is sent together should arrive together.
    """

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings) -> None:
        self._addresses = addresses
        self._settings = settings
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: RedisConnection | RedisClusterConnection | None = None
        self._closed = False

    def __enter__(self) -> RedisConnection | RedisClusterConnection:
        """Take the link. Raises `ConnectionLost`."""
        if self._pid != os.getpid():
            # Another thread of the parent may have held the lock while this process was forked.
            self._lock = threading.Lock()
            self._connection = None
            self._pid = os.getpid()
        self._lock.acquire()
        try:
            if self._closed:
                raise ConnectionLost(f"the connection to {self._addresses[0].display} has been closed")
            connection = self._connection
            if connection is None or connection.stale():
                self._connection = connection = connect(self._addresses, self._settings)
            return connection
        except BaseException:  # undone and raised again
            self._lock.release()
            raise

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        """Give the link back. One that was left in the middle of a reply is not used again."""
        try:
            if exc_type is not None and not issubclass(exc_type, TransportError) and self._connection is not None:
                self._connection.close()
                self._connection = None
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close for good; harmless when closed."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
