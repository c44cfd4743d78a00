"""Connections for any Redis URL: to one server, to the master behind Sentinels, or to a cluster.

1. `connect` returns a `RedisConnection` or a `RedisClusterConnection`.
2. `SharedRedisConnection` lets several threads share one, and reconnects after forks and idle losses.
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
    """One connection for several threads; connects at first use, and again after a fork or an idle loss.

    It is not a pool, because a command lasts only one round trip, and commands sent together must arrive together.
    """

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings) -> None:
        self._addresses = addresses
        self._settings = settings
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: RedisConnection | RedisClusterConnection | None = None
        self._closed = False

    def __enter__(self) -> RedisConnection | RedisClusterConnection:
        """Lock and return the connection. Raises `ConnectionLost`."""
        if self._pid != os.getpid():
            # Another thread of the parent may have held the lock during the fork.
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
        """Unlock the connection; close it if an exception may have left a reply unread."""
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
