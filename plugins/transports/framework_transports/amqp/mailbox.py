"""The mailbox: receives and publishes fan-out messages, for remote control and events.

1. Subscribes with its own queues (usually exclusive), without acknowledgement. Where another connection has the queue
   of that name, it takes one of another name.
2. Sends without confirmation, unless it is asked whether anybody listens. It drops messages for an exchange that does
   not exist, because the broker would close the channel.
3. Sends on a second channel: subscriptions survive if the broker closes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Final
from uuid import uuid4

import msgspec
from amqp import Channel

from framework.api.transport import Exchange, Mailbox, Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing, Payload
from framework_transports.amqp.codec import MALFORMED, read_content_header
from framework_transports.amqp.connection import (
    ANSWER_TIMEOUT,
    LOST,
    AmqpConnection,
    ChannelClosed,
    Delivered,
    Returned,
    lost,
)
from framework_transports.amqp.producer import encode
from framework_transports.amqp.topology import Declarer, QueueLocked, explained

#: Seconds within which the broker must give a sign of life.
HEARTBEAT_INTERVAL: Final = 4.0


class AmqpMailbox(Mailbox):
    """Fan-out over one connection."""

    heartbeat_interval = HEARTBEAT_INTERVAL

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._dead = False
        #: The connection itself is lost, so closing it cannot use the handshake.
        self._broken = False
        self._inbox: deque[tuple[str, Payload]] = deque()
        self._known: set[str] = set()
        self._sender: Channel | None = None
        #: When `heartbeat` last requested a reply.
        self._asked_at = 0.0
        connection.on_delivery = self._arrived
        connection.on_cancel = self._cancelled_by_broker
        connection.on_channel_closed = self._channel_closed
        try:
            self._channel = connection.open_channel()
        except (*LOST, ChannelClosed) as error:
            connection.abandon()
            raise self._lost(error) from error
        self._declarer = Declarer(connection)

    def subscribe(self, queue: Queue) -> None:
        """Declare and bind `queue`, and receive its messages. Raises `TransportError` when the broker refuses it."""
        self._check()
        try:
            name = self._declare(queue)
            self._known.add(queue.exchange.name)
            self._channel.basic_consume(name, no_ack=True, arguments=queue.consumer_arguments)
            self._wake()
        except ChannelClosed as closed:
            self._dead = True
            raise explained(closed, "queue", queue.name) from closed
        except LOST as error:
            raise self._lost(error) from error

    def _declare(self, queue: Queue) -> str:
        """Declare and bind `queue`, and return the name that it has got."""
        try:
            self._declarer.declare(queue)
        except QueueLocked:
            if not queue.exchange.name:
                raise
            # Of another worker of this name, or of this one's last connection, whose end the broker has not noticed.
            # Messages come through the exchange, so the name of the queue is of no account.
            queue = msgspec.structs.replace(queue, name=f"{queue.name}.{uuid4()}")
            self._declarer.declare(queue)
        return queue.name

    def receive(self) -> Sequence[tuple[str, Payload]]:
        """Return the messages that have arrived, without blocking."""
        self._check()
        try:
            while self._connection.advance():
                pass
        except (*LOST, ChannelClosed) as error:
            raise self._lost(error) from error
        arrived = list(self._inbox)
        self._inbox.clear()
        return arrived

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish without waiting for a confirmation."""
        self._check()
        try:
            wanted = [message for message in messages if self._has_listeners(message)]
            if wanted:
                if self._sender is None:
                    self._sender = self._connection.open_channel()
                self._connection.write(
                    encode(wanted, self._sender.channel_id, self._connection.frame_max, mandatory=lambda _: False)
                )
            self._wake()
        except (*LOST, ChannelClosed) as error:
            raise self._lost(error) from error

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish, and return 0 if the broker had no queue for any of the messages, else None: it does not count."""
        self._check()
        if self.congested:
            self.send(messages)
            return None
        try:
            wanted = [message for message in messages if self._has_listeners(message)]
            routed = bool(wanted) and self._confirm(wanted)
            self._wake()
        except (*LOST, ChannelClosed) as error:
            raise self._lost(error) from error
        return None if routed else 0

    def _confirm(self, messages: Sequence[Outgoing]) -> bool:
        """Publish, wait for the confirmations, and return whether the broker had a queue for one of the messages."""
        connection = self._connection
        channel = connection.open_channel()
        channel.confirm_select()
        waiting = set(range(1, len(messages) + 1))
        returned: list[Returned] = []
        connection.on_return = returned.append
        connection.on_confirm = lambda tag, multiple, _nacked: waiting.difference_update(
            range(1, tag + 1) if multiple else (tag,)
        )
        connection.write(encode(messages, channel.channel_id, connection.frame_max, mandatory=lambda _: True))
        while waiting:
            if connection.blocked:
                return True  # it will confirm nothing before it has memory again
            if not connection.receive(ANSWER_TIMEOUT):
                raise TimeoutError(f"no confirmation within {ANSWER_TIMEOUT:g} s")
            connection.take_frames()
        channel.close()
        return len(returned) < len(messages)

    def _has_listeners(self, message: Outgoing) -> bool:
        name = message.exchange
        if not name or name in self._known:
            return True
        if self._connection.blocked:
            return False  # a blocked broker would not answer `has_exchange`
        if not self._declarer.has_exchange(name):
            if message.exchange_type != "topic":
                return False
            # The events exchange: the first listener or sender declares it.
            self._declarer.declare_exchange(Exchange(name, "topic"))
        self._known.add(name)
        return True

    @property
    def congested(self) -> bool:
        """Whether the broker is short of memory or disk and reads nothing: writes would fill the socket, then block."""
        return bool(self._connection.blocked)

    def heartbeat(self) -> None:
        """Request a reply; raise `ConnectionLost` if nothing has come since the last request."""
        self._check()
        connection = self._connection
        if connection.blocked:
            self._asked_at = 0.0  # the broker reads nothing before it has memory again
            return
        if connection.last_received < self._asked_at:
            raise self._lost(TimeoutError(f"no sign of life within {HEARTBEAT_INTERVAL:g} s"))
        self._asked_at = monotonic()
        try:
            connection.wake(self._channel.channel_id)
        except LOST as error:
            raise self._lost(error) from error

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        self._check()
        return self._connection.fileno()

    def close(self) -> None:
        """Disconnect; the broker deletes exclusive queues with the connection."""
        self._dead = True
        if self._broken:
            self._connection.abandon()
        else:
            self._connection.close_quietly()

    def _arrived(self, item: Delivered) -> None:
        _, _, redelivered, exchange, routing_key, raw, body = item
        try:
            headers, properties, content_type, content_encoding = read_content_header(raw)
        except MALFORMED:
            return  # it is neither a command nor an event, and has no readable reply address
        name = exchange.decode(errors="replace")
        properties["delivery_info"] = {
            "exchange": name,
            "routing_key": routing_key.decode(errors="replace"),
            "redelivered": redelivered != 0,
        }
        self._inbox.append((name, (headers, properties, content_type, content_encoding, body)))

    def _cancelled_by_broker(self, _tag: bytes) -> None:
        raise ChannelClosed(0, 404, "the broker ended a subscription (was its queue deleted?)")

    def _channel_closed(self, closed: ChannelClosed) -> bool:
        # py-amqp has cleared the closed channel's number by now.
        if self._sender is None or self._sender.channel_id is not None:
            return False
        self._sender = None
        self._known.clear()
        return True

    def _wake(self) -> None:
        if self._inbox:
            self._connection.wake(self._channel.channel_id)

    def _check(self) -> None:
        if self._dead:
            raise ConnectionLost(f"the connection to {self._connection.address.display} is closed")

    def _lost(self, error: BaseException) -> ConnectionLost:
        self._dead = True
        self._broken = isinstance(error, LOST)
        return lost(self._connection.address, error)
