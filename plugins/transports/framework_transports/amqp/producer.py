"""The producer: publishes batches and waits for the broker's confirmations.

1. Encodes the whole batch before it sends the first byte: one message that cannot be encoded refuses the batch.
2. Sends the batch, then waits once until the broker has confirmed every message (option `confirm_publish`).
3. Raises `PublishRefused` for a task that the broker returns as unroutable (``mandatory``), with the queue, or the
   exchange and the key. Messages to fan-out exchanges, and events, may have no receiver.
4. Waits while the broker is short of memory or disk (``connection.blocked``), then raises `PublishRefused`; if the
   broker blocks after the batch was sent, `ConnectionLost`, because it may still accept the messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Protocol

from amqp import Channel

from framework.api.transport import Producer, Queue
from framework.exceptions import ConnectionLost, PublishRefused, TransportError
from framework.message import Outgoing
from framework_transports.amqp.codec import publish_frames, write_properties
from framework_transports.amqp.connection import LOST, AmqpConnection, ChannelClosed, Returned, lost
from framework_transports.amqp.connector import Connector
from framework_transports.amqp.session import AmqpSession
from framework_transports.amqp.topology import Declarer

logger = logging.getLogger(__name__)


class ProducerOptions(Protocol):
    """The transport options that the producer reads."""

    confirm_publish: bool
    confirm_timeout: float
    blocked_timeout: float


class AmqpProducer(Producer):
    """Publishes over one connection; thread-safe, fork-safe."""

    def __init__(self, connector: Connector, options: ProducerOptions) -> None:
        self._options = options
        self._session = AmqpSession(connector, "producer")
        self._channel: Channel | None = None
        self._declarer: Declarer | None = None
        #: The last message's sequence number on this channel, in the broker's count.
        self._sequence = 0
        self._unconfirmed: set[int] = set()
        #: All messages with lower sequence numbers are confirmed.
        self._floor = 1
        #: Sequence numbers of messages that the broker could not store.
        self._nacked: set[int] = set()
        self._returned: list[Returned] = []
        # Connect here, so that a caller gets the error before its first message.
        with self._session.lock():
            self._session.connection(self._opened)

    def _opened(self, connection: AmqpConnection) -> None:
        try:
            self._channel = channel = connection.open_channel()
            if self._options.confirm_publish:
                channel.confirm_select()
        except (*LOST, ChannelClosed) as error:
            raise lost(connection.address, error) from error
        connection.on_confirm = self._confirmed
        connection.on_return = self._on_return
        self._declarer = Declarer(connection)
        self._sequence = 0
        self._floor = 1
        self._unconfirmed = set()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all of `messages` and return when the broker has them."""
        if not messages:
            return
        with self._session.lock():
            connection = self._session.connection(self._opened)
            self._report_late_returns()
            frames = self._encode(connection, messages)
            try:
                self._await_unblocked(connection)
                self._nacked = set()
                if self._options.confirm_publish:
                    first = self._sequence + 1
                    self._sequence += len(messages)
                    self._unconfirmed = set(range(first, self._sequence + 1))
                    self._floor = first
                connection.write_while_reading(frames)
                if self._options.confirm_publish:
                    self._await_confirms(connection)
            except ChannelClosed as closed:
                self._session.drop()
                raise PublishRefused(_refusal(closed, messages)) from closed
            except LOST as error:
                self._session.drop()
                raise lost(connection.address, error) from error
            if self._options.confirm_publish:
                self._raise_refusals(messages)

    def _encode(self, connection: AmqpConnection, messages: Sequence[Outgoing]) -> bytes:
        channel = self._channel
        if channel is None or channel.channel_id is None:
            raise ConnectionLost(f"the connection to {connection.address.display} is lost")
        return encode(messages, channel.channel_id, connection.frame_max, mandatory=_must_arrive)

    def _await_unblocked(self, connection: AmqpConnection) -> None:
        if not connection.blocked:
            return
        until = monotonic() + self._options.blocked_timeout
        while connection.blocked:
            left = until - monotonic()
            if left > 0 and connection.receive(left):
                connection.advance()
            elif left <= 0:
                raise PublishRefused(
                    f"{connection.address.display} takes no messages ({connection.blocked}); "
                    f"waited {self._options.blocked_timeout:g} s, see its alarms",
                    temporary=True,
                )

    def _await_confirms(self, connection: AmqpConnection) -> None:
        until = monotonic() + self._options.confirm_timeout
        while self._unconfirmed:
            # A broker that blocks after the batch was sent may still accept the messages, so this is not a refusal.
            if connection.blocked:
                until = min(until, connection.blocked_at + self._options.blocked_timeout)
            left = until - monotonic()
            if left <= 0 or not (connection.receive(left) or connection.blocked):
                why = f"; the broker takes no messages ({connection.blocked})" if connection.blocked else ""
                raise TimeoutError(f"{len(self._unconfirmed)} messages were not confirmed in time{why}")
            connection.take_frames()

    def _confirmed(self, tag: int, multiple: bool, nacked: bool) -> None:
        pending = self._unconfirmed
        tags = range(self._floor, tag + 1) if multiple else (tag,)
        if nacked:
            self._nacked.update(pending.intersection(tags))
        pending.difference_update(tags)
        if multiple:
            self._floor = max(self._floor, tag + 1)

    def _on_return(self, returned: Returned) -> None:
        self._returned.append(returned)

    def _raise_refusals(self, messages: Sequence[Outgoing]) -> None:
        returned, self._returned = self._returned, []
        if not returned and not self._nacked:
            return
        count = len(messages)
        first = self._sequence - count + 1
        unroutable = {(item[2], item[3]) for item in returned}
        refused = frozenset(
            number
            for number, message in enumerate(messages)
            if first + number in self._nacked or (message.exchange.encode(), message.routing_key.encode()) in unroutable
        )
        if returned:
            raise PublishRefused(
                f"there is no {_places(returned)} in the broker, so {len(returned)} of {count} messages were returned: "
                f"declare the queue (start a worker that consumes it, or let missing queues be created)",
                refused,
            )
        raise PublishRefused(
            f"the broker refused {len(self._nacked)} of {count} messages: a queue is full (x-max-length with "
            f"reject-publish) or could not store them",
            refused,
            temporary=True,
        )

    def _report_late_returns(self) -> None:
        # Without confirms the caller has returned before the message does, so the loss can only be logged.
        returned, self._returned = self._returned, []
        for item in returned:
            logger.error("A message was dropped: there is no %s in the broker", _places([item]))

    def declare(self, queues: Iterable[Queue]) -> None:
        """Create exchanges, queues and bindings that do not exist."""
        with self._session.lock():
            connection = self._session.connection(self._opened)
            declarer = self._declarer
            if declarer is None:
                raise ConnectionLost(f"the connection to {connection.address.display} is lost")
            try:
                for queue in queues:
                    if queue.broadcast:
                        declarer.declare_exchange(queue.exchange)
                    else:
                        declarer.declare(queue)
            except LOST as error:
                self._session.drop()
                raise lost(connection.address, error) from error
            except ChannelClosed as closed:
                raise TransportError(f"the broker refused a declaration: {closed.text}") from closed

    def close(self) -> None:
        """Close the connection; harmless when closed."""
        self._session.close()


def encode(
    messages: Sequence[Outgoing], channel: int, frame_max: int, *, mandatory: Callable[[Outgoing], bool]
) -> bytes:
    """Return the frames of all `messages`. Raises `PublishRefused` for one that AMQP cannot carry.

    The broker returns those for which `mandatory` is true when it has no queue for them.
    """
    parts = []
    for message in messages:
        given = {
            "correlation_id": message.correlation_id,
            "reply_to": message.reply_to,
            "priority": message.priority,
            "expiration": message.expiration,
        }
        if message.properties:
            given.update(message.properties)
        try:
            properties = write_properties(
                message.headers, message.content_type, message.content_encoding, message.delivery_mode, given
            )
            parts.append(
                publish_frames(
                    channel,
                    message.exchange,
                    message.routing_key,
                    properties,
                    message.body,
                    frame_max,
                    mandatory=mandatory(message),
                )
            )
        except (ValueError, TypeError, AttributeError) as error:
            name = message.headers.get("id") or message.routing_key
            raise PublishRefused(f"the message {name!r} cannot be sent over AMQP: {error}") from error
    return b"".join(parts)


def _must_arrive(message: Outgoing) -> bool:
    """Return whether it is an error if nobody gets the message: a task, or a message for the default exchange."""
    return not message.exchange or (message.exchange_type != "fanout" and "task" in message.headers)


def _places(returned: Sequence[Returned]) -> str:
    """Return the names of the missing queues; of queues behind an exchange, its name and the key."""
    places = sorted({(item[2].decode(errors="replace"), item[3].decode(errors="replace")) for item in returned})
    names = ", ".join(repr(key) if not name else f"for {key!r} behind exchange {name!r}" for name, key in places[:5])
    more = f" and {len(places) - 5} more" if len(places) > 5 else ""
    return f"{'queue' if len(places) == 1 else 'queues'} {names}{more}"


def _refusal(closed: ChannelClosed, messages: Sequence[Outgoing]) -> str:
    if closed.code == 404:
        names = ", ".join(sorted({repr(message.exchange) for message in messages if message.exchange}))
        return f"the broker has no such exchange ({names}): declare a queue that is bound to it ({closed.text})"
    if closed.code == 406 and "size" in closed.text:
        largest = max(len(message.body) for message in messages)
        return f"a message is too large for this broker (the largest has {largest} bytes): {closed.text}"
    return f"the broker refused {len(messages)} messages: {closed.text}"
