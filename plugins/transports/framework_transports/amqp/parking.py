"""Parking: has the broker keep messages for later, and acknowledges the originals when it has them.

1. `take` encodes a copy of a message; `exchange` publishes it, persistent and confirmed, and never waits.
2. Only when the broker has confirmed the copy is the original acknowledged, with the next settlements. Whoever dies
   between the two leaves two of them, never none.
3. Publishes over a connection of its own: a broker that is short of memory or disk does not read from connections that
   publish, and the consumer's has acknowledgements to send.
4. A quorum queue that is new loses everything when the broker is killed in its first half second, confirmed or not: its
   log is there, and nobody knows whose it is. So originals are kept for a moment after such queues were declared.
5. What cannot be parked stays in the worker: queues that may be gone by then, a broker that refuses, is blocked, or
   does not know such queues (RabbitMQ before 3.10). It is asked again after a while.

A confirmation comes down a socket that no loop watches: `ask_at` says when to look.
"""

from __future__ import annotations

import logging
import math
from itertools import takewhile
from time import monotonic, time
from typing import Any, Final

from framework.api.transport import Queue
from framework.exceptions import ConnectionLost
from framework.message import Payload
from framework_transports.amqp.acknowledged import Mark, mark_of
from framework_transports.amqp.codec import publish_frames, write_properties
from framework_transports.amqp.connection import LOST, AmqpConnection, ChannelClosed, Returned
from framework_transports.amqp.connector import Connector
from framework_transports.amqp.levels import Levels, can_wait, exchange_of, parked_headers, routing_key, units
from framework_transports.amqp.settlements import Settlements

logger = logging.getLogger(__name__)

#: Seconds without an answer to a declaration after which the broker is let alone for a while.
_ANSWER: Final = 10.0
#: Seconds to wait for confirmations at the end.
_PATIENCE: Final = 3.0
#: Seconds after which a queue that was declared is sure to outlive the broker.
FIRM_AFTER: Final = 1.5
#: Seconds for which nothing is parked after the broker refused.
_REST: Final = 10.0
#: Seconds between two looks for confirmations: at first, and at most.
_SOON: Final = 0.002
_LATE: Final = 1.0
#: Properties that a copy does not have: what the message says of its delivery, how long the broker may keep it (parked,
#: it would come too early for that; the task's own `expires` is a header), and who sent it, which has to be us.
_LEFT_OUT: Final = ("delivery_info", "delivery_mode", "expiration", "user_id")


class AmqpParking:
    """Parks what one consumer has on loan."""

    def __init__(self, connector: Connector, settlements: Settlements) -> None:
        self._connector = connector
        self._settlements = settlements
        self._queues: dict[str, Queue] = {}
        self._connection: AmqpConnection | None = None
        self._levels: Levels | None = None
        self._channel = 0
        self._sequence = 0
        self._frames: list[bytes] = []
        #: By the number of the publication: the original's delivery tag and mark.
        self._waiting: dict[int, tuple[int, Mark]] = {}
        #: The same of what is confirmed, in a queue that may be new.
        self._young: list[tuple[int, Mark]] = []
        self._firm_at = 0.0
        self._pace = _SOON
        self._rest_until = 0.0

    def know(self, queue: Queue) -> None:
        """Learn of a queue that is consumed from."""
        self._queues[queue.name] = queue

    def __len__(self) -> int:
        """Return how many originals wait to be acknowledged."""
        return len(self._waiting) + len(self._young)

    # ------------------------------------------------------------ parking

    def take(self, payload: Payload, name: str, tag: int, until: float) -> bool:
        """Park the message `tag` of the queue `name` with the next `exchange`; return whether that can be."""
        queue = self._queues.get(name)
        if queue is None or isinstance(payload, bytes) or not can_wait(queue) or monotonic() < self._rest_until:
            return False
        count = units(until - time())
        try:
            connection, levels = self._open()
            if connection.blocked:
                return False
            if levels.make(name, count):
                self._firm_at = monotonic() + FIRM_AFTER
            frames = self._encode(connection, payload, name, count)
        except ConnectionLost as error:
            self._rest(error)
            return False
        except (*LOST, ChannelClosed) as error:
            self._give_up(error)
            return False
        except (ValueError, TypeError, AttributeError) as error:
            logger.debug("A message from %s cannot be parked: %s", name, error)
            return False
        self._sequence += 1
        self._frames.append(frames)
        self._waiting[self._sequence] = (tag, mark_of(payload[0]))
        self._pace = _SOON
        return True

    def _open(self) -> tuple[AmqpConnection, Levels]:
        connection, levels = self._connection, self._levels
        if connection is not None and levels is not None:
            # Blocked or closed meanwhile, it says so here and not in the middle of a declaration.
            connection.advance()
            return connection, levels
        self._connection = connection = self._connector.connect("parking")
        connection.answer_timeout = _ANSWER
        channel = connection.open_channel()
        channel.confirm_select()
        self._channel = int(channel.channel_id)
        self._sequence = 0
        connection.on_confirm = self._confirmed
        connection.on_return = self._came_back
        self._levels = levels = Levels(connection)
        return connection, levels

    def _encode(self, connection: AmqpConnection, payload: tuple[Any, ...], name: str, count: int) -> bytes:
        headers, properties, content_type, content_encoding, body = payload
        kept = {key: value for key, value in properties.items() if key not in _LEFT_OUT}
        written = write_properties(parked_headers(headers, properties), content_type, content_encoding, 2, kept)
        key = routing_key(count, name)
        return publish_frames(
            self._channel, exchange_of(count), key, written, body, connection.frame_max, mandatory=True
        )

    # ------------------------------------------------------------ confirmations

    def exchange(self) -> None:
        """Publish what was taken, and settle the originals of what has been confirmed."""
        connection = self._connection
        if connection is None:
            return
        before = len(self._waiting)
        try:
            if self._frames:
                frames, self._frames = self._frames, []
                connection.write_while_reading(b"".join(frames))
            while connection.advance():
                pass
            self._acknowledge(connection)
        except (*LOST, ChannelClosed) as error:
            self._give_up(error)
        self._pace = _SOON if len(self._waiting) < before else min(2 * self._pace, _LATE)

    @property
    def ask_at(self) -> float | None:
        """When to call `exchange` again, as `monotonic` counts; None: there is nothing to wait for."""
        if self._waiting:
            return monotonic() + self._pace
        return max(self._firm_at, monotonic() + _SOON) if self._young else None

    def _confirmed(self, number: int, multiple: bool, nacked: bool) -> None:
        numbers = list(takewhile(number.__ge__, self._waiting)) if multiple else [number]
        for each in numbers:
            original = self._waiting.pop(each, None)
            if original is not None and nacked:
                self._settlements.reject(original[0], True)
            elif original is not None:
                self._young.append(original)
        if nacked:
            self._rest(RuntimeError("it could not store them"))

    def _acknowledge(self, connection: AmqpConnection) -> None:
        if not self._young or monotonic() < self._firm_at:
            return
        if connection.last_received < self._firm_at:
            # That the time is over says nothing: is the broker still the one that confirmed?
            connection.nudge(self._channel)
            return
        for tag, mark in self._young:
            self._settlements.ack(tag)
            self._settlements.recent.append(mark)
        self._young.clear()

    def _came_back(self, returned: Returned) -> None:
        raise ChannelClosed(self._channel, returned[0], f"{returned[2].decode(errors='replace')} leads nowhere")

    # ------------------------------------------------------------ the end

    def finish(self, *, publish_until_accepted: bool) -> None:
        """Wait for the confirmations that are still to come, and disconnect; harmless when that is done.

        `publish_until_accepted`: wait, too, until everything is sure to be kept.
        """
        # Nobody parks any more, so nobody needs to hear of a broker that is away.
        self._rest_until = math.inf
        self.exchange()
        until = monotonic() + _PATIENCE
        while (
            (self._waiting or (publish_until_accepted and self._young))
            and self._connection is not None
            and monotonic() < until
        ):
            wait = (self.ask_at or 0.0) - monotonic()
            try:
                self._connection.receive(max(_SOON, min(wait, _PATIENCE)))
            except LOST as error:
                self._give_up(error)
            self.exchange()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.goodbye()

    def _give_up(self, error: BaseException) -> None:
        """Begin anew: nobody knows what has become of what was not confirmed, so its originals go back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        for tag, _ in (*self._waiting.values(), *self._young):
            self._settlements.reject(tag, True)
        self._waiting.clear()
        self._young.clear()
        self._frames.clear()
        self._rest(error)

    def _rest(self, error: BaseException) -> None:
        now = monotonic()
        if now >= self._rest_until:
            logger.warning(
                "The broker does not park tasks for later: %s. They wait in this worker; it tries again in %g s",
                error,
                _REST,
            )
        self._rest_until = max(self._rest_until, now + _REST)
