"""Parking: publishes copies of messages to the level queues, and acknowledges the originals.

1. `add` encodes a copy of a message; `send_and_settle` publishes it, persistent and confirmed, and never waits.
2. Acknowledges the original, with the next settlements, only after the broker has confirmed the copy. A crash in
   between leaves two messages, never none.
3. Publishes on a second connection: a broker short of memory or disk stops reading from publishing connections, and
   the consumer's connection must still send acknowledgements.
4. Holds back the acknowledgements for a moment after it has declared a level queue: a new quorum queue loses even
   confirmed messages when the broker is killed within half a second of the declaration.
5. Leaves messages in the worker that cannot be parked: of queues that may not exist when they are due, or when the
   broker refuses, is blocked, or does not support such queues (RabbitMQ before 3.10). After a pause it tries again.

No loop watches the second connection's socket: `check_at` is the time to check for confirmations.
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

#: Seconds to wait for the reply to a declaration.
_ANSWER_TIMEOUT: Final = 10.0
#: Seconds to wait for confirmations before closing.
_FINISH_TIMEOUT: Final = 3.0
#: Seconds after which a declared queue is sure to survive a crash of the broker.
SAFE_AFTER: Final = 1.5
#: Seconds without parking after a refusal.
_PAUSE: Final = 10.0
#: Seconds between two checks for confirmations: at first, and at most.
_CHECK_MIN: Final = 0.002
_CHECK_MAX: Final = 1.0
#: Properties left out of the copy: those of the delivery; the expiration, which would drop the parked copy early (the
#: task's own `expires` is a header); and the user, which the broker checks against this connection's.
_LEFT_OUT: Final = ("delivery_info", "delivery_mode", "expiration", "user_id")


class AmqpParking:
    """Parks the messages of one consumer."""

    def __init__(self, connector: Connector, settlements: Settlements) -> None:
        self._connector = connector
        self._settlements = settlements
        self._queues: dict[str, Queue] = {}
        self._connection: AmqpConnection | None = None
        self._levels: Levels | None = None
        self._channel = 0
        self._sequence = 0
        self._frames: list[bytes] = []
        #: Unconfirmed copies, by sequence number: the original's delivery tag and mark.
        self._waiting: dict[int, tuple[int, Mark]] = {}
        #: Tags and marks of originals whose copies are confirmed, perhaps in a new queue.
        self._to_acknowledge: list[tuple[int, Mark]] = []
        self._safe_at = 0.0
        self._check_interval = _CHECK_MIN
        self._paused_until = 0.0

    def add_queue(self, queue: Queue) -> None:
        """Add a queue whose messages can be parked."""
        self._queues[queue.name] = queue

    def __len__(self) -> int:
        """Return the number of originals that wait for their acknowledgement."""
        return len(self._waiting) + len(self._to_acknowledge)

    # ------------------------------------------------------------ parking

    def add(self, payload: Payload, name: str, tag: int, until: float) -> bool:
        """Park the message `tag` of the queue `name` with the next `send_and_settle`; return False if it cannot be."""
        queue = self._queues.get(name)
        if queue is None or isinstance(payload, bytes) or not can_wait(queue) or monotonic() < self._paused_until:
            return False
        count = units(until - time())
        try:
            connection, levels = self._open()
            if connection.blocked:
                return False
            if levels.make(name, count):
                self._safe_at = monotonic() + SAFE_AFTER
            frames = self._encode(connection, payload, name, count)
        except ConnectionLost as error:
            self._pause(error)
            return False
        except (*LOST, ChannelClosed) as error:
            self._reset(error)
            return False
        except (ValueError, TypeError, AttributeError) as error:
            logger.debug("A message from %s cannot be parked: %s", name, error)
            return False
        self._sequence += 1
        self._frames.append(frames)
        self._waiting[self._sequence] = (tag, mark_of(payload[0]))
        self._check_interval = _CHECK_MIN
        return True

    def _open(self) -> tuple[AmqpConnection, Levels]:
        connection, levels = self._connection, self._levels
        if connection is not None and levels is not None:
            # Detects a blocked or closed connection here, before a declaration.
            connection.advance()
            return connection, levels
        self._connection = connection = self._connector.connect("parking")
        connection.answer_timeout = _ANSWER_TIMEOUT
        channel = connection.open_channel()
        channel.confirm_select()
        self._channel = int(channel.channel_id)
        self._sequence = 0
        connection.on_confirm = self._confirmed
        connection.on_return = self._on_return
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

    def send_and_settle(self) -> None:
        """Publish added copies, and settle the originals of confirmed ones."""
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
            self._reset(error)
        self._check_interval = _CHECK_MIN if len(self._waiting) < before else min(2 * self._check_interval, _CHECK_MAX)

    @property
    def check_at(self) -> float | None:
        """The next time to call `send_and_settle`, on the clock of `monotonic`; None: nothing is pending."""
        if self._waiting:
            return monotonic() + self._check_interval
        return max(self._safe_at, monotonic() + _CHECK_MIN) if self._to_acknowledge else None

    def _confirmed(self, number: int, multiple: bool, nacked: bool) -> None:
        numbers = list(takewhile(number.__ge__, self._waiting)) if multiple else [number]
        for each in numbers:
            original = self._waiting.pop(each, None)
            if original is not None and nacked:
                self._settlements.reject(original[0], True)
            elif original is not None:
                self._to_acknowledge.append(original)
        if nacked:
            self._pause(RuntimeError("it could not store a parked message"))

    def _acknowledge(self, connection: AmqpConnection) -> None:
        if not self._to_acknowledge or monotonic() < self._safe_at:
            return
        if connection.last_received < self._safe_at:
            # A frame after `_safe_at` proves that the broker that confirmed is still alive.
            connection.wake(self._channel)
            return
        for tag, mark in self._to_acknowledge:
            self._settlements.ack(tag)
            self._settlements.recent.append(mark)
        self._to_acknowledge.clear()

    def _on_return(self, returned: Returned) -> None:
        raise ChannelClosed(self._channel, returned[0], f"exchange {returned[2].decode(errors='replace')} has no queue")

    # ------------------------------------------------------------ the end

    def finish(self, *, publish_until_accepted: bool) -> None:
        """Wait for outstanding confirmations, and disconnect; harmless when disconnected.

        `publish_until_accepted`: wait, too, until new level queues are safe.
        """
        # Nothing is parked from here on, so a lost broker need not be logged.
        self._paused_until = math.inf
        self.send_and_settle()
        until = monotonic() + _FINISH_TIMEOUT
        while (
            (self._waiting or (publish_until_accepted and self._to_acknowledge))
            and self._connection is not None
            and monotonic() < until
        ):
            wait = (self.check_at or 0.0) - monotonic()
            try:
                self._connection.receive(max(_CHECK_MIN, min(wait, _FINISH_TIMEOUT)))
            except LOST as error:
                self._reset(error)
            self.send_and_settle()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close_quietly()

    def _reset(self, error: BaseException) -> None:
        """Drop the connection, and requeue the originals of copies whose fate is unknown."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        for tag, _ in (*self._waiting.values(), *self._to_acknowledge):
            self._settlements.reject(tag, True)
        self._waiting.clear()
        self._to_acknowledge.clear()
        self._frames.clear()
        self._pause(error)

    def _pause(self, error: BaseException) -> None:
        now = monotonic()
        if now >= self._paused_until:
            logger.warning(
                "Parking tasks in the broker failed: %s. They wait in this worker. Trying again in %g s", error, _PAUSE
            )
        self._paused_until = max(self._paused_until, now + _PAUSE)
