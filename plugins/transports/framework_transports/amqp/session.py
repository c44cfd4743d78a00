"""A session: the one link of something that many threads use.

1. Opens the link when it is first needed, and again when an idle one turns out to be dead before anything was sent.
2. After a fork the child gets a link (and a lock) of its own and leaves the parent's alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from framework_transports.amqp.connection import LOST, AmqpConnection, ChannelClosed
from framework_transports.amqp.connector import Connector


class AmqpSession:
    """Holds a link; all methods but `lock` and `close` are called with the lock held."""

    def __init__(self, connector: Connector, role: str) -> None:
        self.connector = connector
        self._role = role
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: AmqpConnection | None = None

    def lock(self) -> threading.Lock:
        """Return the lock to hold; in a forked child a new one, since another thread of the parent may hold the old."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self.drop()
        return self._lock

    def connection(self, on_open: Callable[[AmqpConnection], None]) -> AmqpConnection:
        """Return a link that was alive a moment ago; `on_open` is given it when it is new. Raises `ConnectionLost`."""
        connection = self._connection
        if connection is not None:
            try:
                # Idle for long, it may have been closed by the broker or something between: that is to be read by now.
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
        """Forget a link that is dead or not ours."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def close(self) -> None:
        """Close the link; harmless when closed. The session may be used again."""
        with self.lock():
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.goodbye()
