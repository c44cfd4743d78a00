"""The producer: publishes any number of messages in one round trip.

1. All threads share one connection; it is renewed after a fork, and after a loss noticed before sending.
2. A missing reply raises `ConnectionLost`: the server may or may not have the messages.
3. A message that no binding matches raises `PublishRefused`: its task would never run.
4. A server that refuses, for example because it is full, accepts all messages of a batch or none, so that the batch can
   be published again. A cluster has no transactions across its nodes, so it may have accepted a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from framework.api.transport import Producer, Queue
from framework.exceptions import PublishRefused
from framework.message import Outgoing
from framework_drivers.redis.cluster import RedisClusterConnection
from framework_drivers.redis.resp import Command, RedisConnection, RedisConnectionSettings, ServerError
from framework_drivers.redis.shared_connection import SharedRedisConnection
from framework_drivers.redis.url import RedisAddress
from framework_transports.redis.keys import Keys
from framework_transports.redis.router import RedisRouter


class RedisProducer(Producer):
    """Publishes through one connection."""

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys) -> None:
        self._connection = SharedRedisConnection(addresses, settings)
        self._router = RedisRouter(keys)
        with self._connection:
            pass

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all of `messages` in one write."""
        with self._connection as connection:
            commands = self._router.commands(connection, messages, refuse=True)
            try:
                if len(commands) == 1 or isinstance(connection, RedisClusterConnection):
                    connection.run(commands)
                else:
                    _run_as_one(connection, commands)
            except ServerError as error:
                raise PublishRefused(str(error), temporary=error.temporary) from error

    def declare(self, queues: Iterable[Queue]) -> None:
        """Bind `queues`; a queue needs no other declaration."""
        with self._connection as connection:
            commands = self._router.declare(queues)
            if commands:
                connection.run(commands)

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._connection.close()


def _run_as_one(connection: RedisConnection, commands: Sequence[Command]) -> None:
    """Run all of `commands`, or none if the server refuses writes. Raises `ServerError`, `ConnectionLost`."""
    for command, reply in zip(commands, connection.run([("MULTI",), *commands, ("EXEC",)])[-1], strict=True):
        if connection.is_error(reply):
            connection.raise_error(reply, command)
