"""One connection and one channel of kombu, with its errors translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from framework.api.transport import Queue
from framework.exceptions import ConnectionLost, PluginUnavailable, TransportError
from framework.server_url import check, mask

#: Names of exceptions, and beginnings of texts, of a server that refuses writes for the moment.
_TEMPORARY = ("OutOfMemoryError", "ReadOnlyError", "MessageNacked", "MISCONF", "NOREPLICAS")


def library(module: str = "kombu") -> Any:
    """Import kombu at the first connection, because importing is slow; as `Any`, because kombu has no types."""
    return import_module(module)


class KombuBroker:
    """One connection of kombu, with one channel."""

    def __init__(self, url: str, transport_options: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        kombu = library()
        check(url)
        self.display_url = mask(url)
        self.connection = kombu.Connection(
            url,
            connect_timeout=settings.get("connection_timeout") or 4.0,
            heartbeat=settings.get("heartbeat") or 0,
            ssl=settings.get("use_ssl") or False,
            login_method=settings.get("login_method"),
            failover_strategy=settings.get("failover_strategy") or "round-robin",
            transport_options=dict(transport_options),
        )
        try:
            transport = self.connection.transport
        except ImportError as error:
            scheme = url.partition("://")[0]
            raise PluginUnavailable(
                f"a broker URL with {scheme}:// needs a library that is not installed ({error}): "
                f"pip install 'kombu[{scheme}]'"
            ) from error
        self.lost = (*transport.connection_errors, OSError)
        # What a broker that confirms messages raises is in none of the lists.
        self.refused = (*transport.channel_errors, library("amqp.exceptions").MessageNacked)
        with self.errors():
            self.connection.ensure_connection(max_retries=1, reraise_as_library_errors=False)
            self.channel: Any = self.connection.channel()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise kombu's errors as `TransportError` or `ConnectionLost`."""
        try:
            yield
        except self.refused as error:
            refused = TransportError(f"{self.display_url} refused: {error}")
            refused.temporary = type(error).__name__ in _TEMPORARY or str(error).startswith(_TEMPORARY)
            raise refused from error
        except self.lost as error:
            raise ConnectionLost(f"the connection to {self.display_url} was lost: {error}") from error

    def entity(self, queue: Queue) -> Any:
        """Return `queue` as a kombu queue, bound to the channel. Raises `TransportError` for a broadcast queue."""
        if queue.broadcast:
            raise TransportError(
                f"{self.display_url} has no fan-out through kombu, so {queue.exchange.name!r} cannot be a broadcast "
                "queue: use Redis, RabbitMQ or SQLite, or leave broadcast out"
            )
        kombu = library()
        exchange = kombu.Exchange(
            queue.exchange.name,
            queue.exchange.type,
            durable=queue.exchange.durable,
            auto_delete=queue.exchange.auto_delete,
            arguments=queue.exchange.arguments,
        )
        return kombu.Queue(
            queue.name,
            exchange,
            queue.routing_key,
            durable=queue.durable,
            exclusive=queue.exclusive,
            auto_delete=queue.auto_delete,
            expires=queue.expires,
            message_ttl=queue.message_ttl,
            max_length=queue.max_length,
            max_length_bytes=queue.max_length_bytes,
            max_priority=queue.max_priority,
            queue_arguments=queue.queue_arguments,
            binding_arguments=queue.binding_arguments,
            no_ack=queue.no_ack,
        )(self.channel)

    def declare(self, queue: Queue) -> None:
        """Create `queue`, its exchange and binding."""
        entity = self.entity(queue)
        if queue.exchange.name:
            entity.declare()
        else:
            entity.queue_declare()

    def close(self) -> None:
        """Disconnect; ignores the errors of a lost connection."""
        with suppress(*self.lost, *self.refused):
            self.connection.release()
