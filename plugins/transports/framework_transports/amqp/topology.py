"""Declarations: exchanges, queues and bindings, as Celery declares them, so that both may use one broker.

1. `queue_arguments` maps a `Queue` to RabbitMQ's arguments (times there are in milliseconds).
2. `Declarer` declares on a channel of its own: the broker answers a contradiction by closing the channel, and the one
   that has messages on loan must survive that.
3. Says in words what contradicts what, and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from amqp import Channel

from framework.api.transport import Exchange, Queue
from framework.exceptions import TransportError
from framework_transports.amqp.connection import AmqpConnection, ChannelClosed

NOT_FOUND: Final = 404
_ACCESS_REFUSED: Final = 403
_LOCKED: Final = 405
_CONTRADICTION: Final = 406
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
    """Say whether `queue` is of a kind whose consumers are limited one by one, never all of a channel together."""
    return str((queue.queue_arguments or {}).get("x-queue-type", "")) in ("quorum", "stream")


class Declarer:
    """Declares on one link."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._channel: Channel | None = None

    def run(self, request: Callable[[Channel], T]) -> T:
        """Do `request` on the channel for declarations. Raises `ChannelClosed`; the next call has a new channel."""
        if self._channel is None:
            self._channel = self._connection.open_channel()
        try:
            return request(self._channel)
        except ChannelClosed as closed:
            if self._channel is not None and self._channel.connection is None:
                self._channel = None
            raise closed from None

    def declare(self, queue: Queue) -> None:
        """Create exchange, queue and binding where they do not exist. Raises `TransportError` on a contradiction."""
        exchange = queue.exchange
        # The anonymous exchange and the broker's own exist, and may not be declared or (the former) bound to.
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
        """Create `exchange` where it does not exist. Raises `TransportError` on a contradiction."""
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
        """Return how many messages wait in the queue `name`; None when there is no such queue."""
        try:
            return int(self.run(lambda channel: channel.queue_declare(name, passive=True)).message_count)
        except ChannelClosed as closed:
            if closed.code == NOT_FOUND:
                return None
            raise explained(closed, "queue", name) from None

    def purge(self, name: str) -> int:
        """Drop what waits in the queue `name`; 0 when there is no such queue."""
        try:
            return int(self.run(lambda channel: channel.queue_purge(name)) or 0)
        except ChannelClosed as closed:
            if closed.code == NOT_FOUND:
                return 0
            raise explained(closed, "queue", name) from None

    def has_exchange(self, name: str) -> bool:
        """Say whether there is an exchange `name`."""
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
    """Say in words why the broker refused something about the `kind` `name`."""
    if closed.code == _CONTRADICTION and (found := _INEQUIVALENT.search(closed.text)):
        return TransportError(
            f"the {found['kind']} {found['name']!r} exists with other properties: {found['arg']} is "
            f"{_word(found['exists'])} in the broker, {_word(found['asked'])} was asked for; configure it as it is, "
            f"or delete it in the broker when it is empty and let it be created anew"
        )
    if closed.code == _LOCKED:
        return TransportError(
            f"the {kind} {name!r} belongs to another connection alone: does another node of the same name run?"
        )
    if closed.code == _ACCESS_REFUSED:
        return TransportError(f"the broker does not allow this user to use the {kind} {name!r}: {closed.text}")
    if closed.code == NOT_FOUND:
        return TransportError(f"there is no {kind} {name!r} in the broker: {closed.text}")
    return TransportError(f"the broker refused the {kind} {name!r}: {closed.text}")


def _word(value: str) -> str:
    text = re.sub(r"^the value ", "", value)
    return re.sub(r" of type '\w+'$", "", text).strip("'")
