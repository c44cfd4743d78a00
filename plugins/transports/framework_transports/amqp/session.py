"""A session: one connection that many threads share.

1. Opens the connection at the first use, and again when an idle connection is found dead before anything is sent.
2. Opens a new connection, with a new lock, in a forked child, and leaves the parent's alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from framework_transports.amqp.connection import LOST, AmqpConnection, ChannelClosed
from framework_transports.amqp.connector import Connector


class AmqpSession:
    """Holds a connection; callers hold the lock for all methods except `lock` and `close`."""

    def __init__(self, connector: Connector, role: str) -> None:
        self.connector = connector
        self._role = role
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: AmqpConnection | None = None

    def lock(self) -> threading.Lock:
        """Return the lock; in a forked child a new one, because a thread of the parent may hold the old one."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self.drop()
        return self._lock

    def connection(self, on_open: Callable[[AmqpConnection], None]) -> AmqpConnection:
        """Return a checked connection, after calling `on_open` with a new one. Raises `ConnectionLost`."""
        connection = self._connection
        if connection is not None:
            try:
                # The broker, or a proxy, may have closed an idle connection: reading detects that.
                connection.advance()
            except (*LOST, ChannelClosed):
                self.drop()
            else:
                return connection
        connection = self.connector.connect(self._role)
        try:
            on_open(connection)
        except BaseException:  # undone and raised again
            connection.abandon()
            raise
        self._connection = connection
        return connection

    def drop(self) -> None:
        """Drop a connection that is dead or belongs to the parent process."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def close(self) -> None:
        """Close the connection; harmless when closed. The session may be used again."""
        with self.lock():
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close_quietly()
