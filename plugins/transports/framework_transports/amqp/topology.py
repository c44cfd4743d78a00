"""Declarations: exchanges, queues and bindings, as Celery declares them, so that both can use one broker.

1. `queue_arguments` maps a `Queue` to RabbitMQ's arguments (times there are in milliseconds).
2. `Declarer` declares on a separate channel: the broker closes the channel on a conflict, and the channel with
   unacknowledged messages must survive that.
3. `explained` makes an error of the broker's refusal: what conflicts, and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from amqp import Channel

from framework.api.transport import Exchange, Queue
from framework.exceptions import TransportError
from framework_transports.amqp.codec import SHORT_MAX
from framework_transports.amqp.connection import AmqpConnection, ChannelClosed

NOT_FOUND: Final = 404
_ACCESS_REFUSED: Final = 403
_LOCKED: Final = 405
_PRECONDITION_FAILED: Final = 406
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<arg>[^']+)' for (?P<kind>queue|exchange) '(?P<name>.*)' in vhost '.*': "
    r"received (?P<asked>.*) but current is (?P<exists>.*?)(?: of type '\w+')?$"
)

T = TypeVar("T")


def queue_arguments(queue: Queue) -> dict[str, Any]:
    """Return the arguments of ``queue.declare``."""
    arguments: dict[str, Any] = dict(queue.queue_arguments or {})
    for name, value in (
        ("x-expires", _milliseconds(queue.expires)),
        ("x-message-ttl", _milliseconds(queue.message_ttl)),
        ("x-max-length", queue.max_length),
        ("x-max-length-bytes", queue.max_length_bytes),
        ("x-max-priority", queue.max_priority),
    ):
        if value is not None:
            arguments[name] = value
    return arguments


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def counts_on_queue(queue: Queue) -> bool:
    """Return whether `queue` is of a type with a prefetch limit for each consumer, never for the whole channel."""
    return str((queue.queue_arguments or {}).get("x-queue-type", "")) in ("quorum", "stream")


class QueueLocked(TransportError):
    """Another connection has the queue for itself."""


class Declarer:
    """Declares on one connection."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._channel: Channel | None = None

    def run(self, request: Callable[[Channel], T]) -> T:
        """Run `request` on the channel for declarations. Raises `ChannelClosed`; the next call opens a new channel."""
        if self._channel is None:
            self._channel = self._connection.open_channel()
        try:
            return request(self._channel)
        except ChannelClosed as closed:
            if self._channel is not None and self._channel.connection is None:
                self._channel = None
            raise closed from None

    def declare(self, queue: Queue) -> None:
        """Create exchange, queue and binding if they do not exist. Raises `TransportError` on a conflict."""
        exchange = queue.exchange
        for name in (queue.name, exchange.name, queue.routing_key):
            if len(name.encode()) > SHORT_MAX:
                raise TransportError(f"{name!r:.60} has {len(name.encode())} bytes, AMQP allows {SHORT_MAX} in a name")
        # The broker's own exchanges may not be declared, and the default exchange may not be bound to either.
        if exchange.name and not exchange.name.startswith("amq."):
            self.declare_exchange(exchange)

        def create(channel: Channel) -> None:
            channel.queue_declare(
                queue.name,
                durable=queue.durable,
                exclusive=queue.exclusive,
                auto_delete=queue.auto_delete,
                arguments=queue_arguments(queue),
            )

        self._explained(create, "queue", queue.name)
        if exchange.name:
            self._explained(
                lambda channel: channel.queue_bind(
                    queue.name, exchange.name, queue.routing_key, arguments=queue.binding_arguments
                ),
                "binding of queue",
                queue.name,
            )

    def declare_exchange(self, exchange: Exchange) -> None:
        """Create `exchange` if it does not exist. Raises `TransportError` on a conflict."""
        self._explained(
            lambda channel: channel.exchange_declare(
                exchange.name,
                exchange.type,
                durable=exchange.durable,
                auto_delete=exchange.auto_delete,
                arguments=exchange.arguments,
            ),
            "exchange",
            exchange.name,
        )

    def size(self, name: str) -> int | None:
        """Return how many messages wait in the queue `name`; None if it does not exist."""
        try:
            return int(self.run(lambda channel: channel.queue_declare(name, passive=True)).message_count)
        except ChannelClosed as closed:
            if closed.code == NOT_FOUND:
                return None
            raise explained(closed, "queue", name) from None

    def purge(self, name: str) -> int:
        """Drop the waiting messages of the queue `name`, and return how many; 0 if it does not exist."""
        try:
            return int(self.run(lambda channel: channel.queue_purge(name)) or 0)
        except ChannelClosed as closed:
            if closed.code == NOT_FOUND:
                return 0
            raise explained(closed, "queue", name) from None

    def has_exchange(self, name: str) -> bool:
        """Return whether the exchange `name` exists."""
        try:
            self.run(lambda channel: channel.exchange_declare(name, "direct", passive=True))
        except ChannelClosed as closed:
            if closed.code == NOT_FOUND:
                return False
            raise explained(closed, "exchange", name) from None
        return True

    def _explained(self, request: Callable[[Channel], object], kind: str, name: str) -> None:
        try:
            self.run(request)
        except ChannelClosed as closed:
            raise explained(closed, kind, name) from None


def explained(closed: ChannelClosed, kind: str, name: str) -> TransportError:
    """Return the error for the broker's refusal of the `kind` `name`."""
    if closed.code == _PRECONDITION_FAILED and (found := _INEQUIVALENT.search(closed.text)):
        return TransportError(
            f"the {found['kind']} {found['name']!r} exists with other properties: {found['arg']} is "
            f"{_word(found['exists'])} in the broker, {_word(found['asked'])} was asked for; configure it like the "
            f"broker's, or delete it in the broker when it is empty and let it be created again"
        )
    if closed.code == _LOCKED:
        return QueueLocked(
            f"the {kind} {name!r} is exclusive to another connection: does another node of the same name run?"
        )
    if closed.code == _ACCESS_REFUSED:
        return TransportError(f"the broker does not allow this user to use the {kind} {name!r}: {closed.text}")
    if closed.code == NOT_FOUND:
        return TransportError(f"there is no {kind} {name!r} in the broker: {closed.text}")
    return TransportError(f"the broker refused the {kind} {name!r}: {closed.text}")


def _word(value: str) -> str:
    text = re.sub(r"^the value ", "", value)
    return re.sub(r" of type '\w+'$", "", text).strip("'")
