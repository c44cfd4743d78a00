"""The consumer: receives pushed messages, returns deliveries in batches, and settles them in batches.

1. Consumes from any number of queues on one channel; declares them on another.
2. `fetch` sends settlements, reads the socket, and returns up to `limit` deliveries; it never waits.
3. Sets the broker's prefetch limit. Classic queues share one limit for the channel, which can change at any time.
   Quorum queues and streams support only a limit per consumer, fixed when it starts: a new consumer replaces the old.
4. Wakes the loop (`AmqpConnection.wake`) for messages that arrived during a declaration.
5. Sends heartbeats, and detects missing heartbeats of the broker.
6. Acknowledges redelivered messages again whose acknowledgement a lost connection may have dropped; see `Acknowledged`.
7. Declares a queue again that is deleted while it is consumed.
8. `poll_while_full` reads frames while core is at capacity: a closed channel, or redelivered messages of running tasks.
9. Parks messages through `AmqpParking`; the broker pushes them when they are due. `due_at` is only the time of the next
   check for confirmations.
10. Has `DeliveryLimits` name the policies that drop messages of the queues it declares.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from struct import Struct
from time import monotonic
from typing import Final, NoReturn

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost, TransportError
from framework_transports.amqp import native
from framework_transports.amqp.acknowledged import Acknowledged
from framework_transports.amqp.broker_consumers import BrokerConsumer, QosMode
from framework_transports.amqp.codec import method_frame, short_string, write_table
from framework_transports.amqp.connection import LOST, AmqpConnection, ChannelClosed, Delivered, lost
from framework_transports.amqp.connector import Connector
from framework_transports.amqp.delivery import AmqpDelivery, read_delivery
from framework_transports.amqp.limits import DeliveryLimits
from framework_transports.amqp.parking import AmqpParking
from framework_transports.amqp.settlements import Settlements
from framework_transports.amqp.topology import Declarer, counts_on_queue, explained
from framework_transports.amqp.tries import Tries

logger = logging.getLogger(__name__)

#: The prefetch limit until core sets one: enough to start with, too few to starve other workers.
PREFETCH_DEFAULT: Final = 16
#: The largest limit that the protocol's two bytes can hold; above it there is no limit.
PREFETCH_MAX: Final = 65_535
#: Messages being parked that raise the prefetch limit, at most.
PARKED_AHEAD: Final = 1_000

_pack_qos = Struct(">IHB").pack
_NOT_IMPLEMENTED: Final = 540


class AmqpConsumer(Consumer):
    """Fetches from a set of queues over one connection."""

    pushes = True

    def __init__(
        self,
        connection: AmqpConnection,
        mode: QosMode,
        tries: Tries,
        connector: Connector,
        delayed_in: str,
        limits: DeliveryLimits,
    ) -> None:
        """`connector` makes the connection for parking.

        `delayed_in`: the queue type of Celery's native delayed delivery, ``quorum`` or ``classic``.
        """
        self._connection = connection
        self._mode = mode
        self._tries = tries
        self._delayed_in = delayed_in
        self._limits = limits
        self._dead = False
        #: The connection itself is lost, so closing it cannot use the handshake.
        self._broken = False
        self._settlements = Settlements()
        self._parking = self._settlements.parking = AmqpParking(connector, self._settlements)
        self._acknowledged = Acknowledged()
        self._ready: deque[Delivered] = deque()
        #: Redelivered messages have arrived since the last `poll_while_full`.
        self._redelivered = False
        #: Consumers that the broker has ended and this one has not replaced yet.
        self._ended: list[BrokerConsumer] = []
        #: By consumer tag, with ended consumers: their messages may still arrive.
        self._sources: dict[bytes, BrokerConsumer] = {}
        self._current: dict[str, BrokerConsumer] = {}
        #: Some of the current consumers are cancelled until the next `fetch`.
        self._paused = False
        self._numbers = 0
        self._limit = PREFETCH_DEFAULT
        #: The last limit sent for the channel, with the allowance for messages being parked.
        self._sent_limit = PREFETCH_DEFAULT
        #: The limit with which the current per-consumer limited consumers started.
        self._consumers_limit = PREFETCH_DEFAULT
        try:
            self._channel = connection.open_channel()
            self._channel_id = int(self._channel.channel_id)
            self._declarer = Declarer(connection)
            self._send_qos()
        except (*LOST, ChannelClosed) as error:
            connection.abandon()
            self._fail(error)
        connection.on_delivery = self._arrived
        connection.on_cancel = self._cancelled_by_broker
        # A third of the negotiated interval, so that one late call does no harm.
        self.heartbeat_interval = connection.heartbeat / 3 if connection.heartbeat else None

    # ------------------------------------------------------------ queues

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and start consuming from it. Raises `TransportError` when the broker refuses it."""
        self._check()
        if queue.name in self._current:
            return
        try:
            self._declarer.declare(queue)
            self._limits.check(queue, self._connection.address)
            if native.expected(queue):
                native.declare(self._declarer, queue, self._delayed_in)
            if counts_on_queue(queue) and not self._mode.per_consumer:
                self._limit_consumers()
            source = self._new_source(queue)
            self._channel.basic_consume(
                queue.name, consumer_tag=source.tag.decode(), no_ack=queue.no_ack, arguments=queue.consumer_arguments
            )
            self._wake()
        except ChannelClosed as closed:
            # The broker requeued this channel's unacknowledged messages, so the consumer is unusable.
            self._dead = True
            raise explained(closed, "queue", queue.name) from closed
        except LOST as error:
            self._fail(error)

    def _new_source(self, queue: Queue, before: BrokerConsumer | None = None) -> BrokerConsumer:
        self._numbers += 1
        source = BrokerConsumer(queue, b"%d" % self._numbers, before)
        self._sources[source.tag] = source
        self._current[queue.name] = source
        self._parking.add_queue(queue)
        return source

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; messages not fetched yet are requeued."""
        self._check()
        source = self._current.pop(name, None)
        if source is None:
            return
        try:
            if not source.cancelled:
                self._cancel(source)
            self._settle()
        except LOST as error:
            self._fail(error)

    def _cancel(self, source: BrokerConsumer) -> None:
        """Cancel `source`, and requeue its messages that were not fetched."""
        source.cancelled = True
        self._connection.write(self._cancel_frame(source))
        kept: deque[Delivered] = deque()
        for item in self._ready:
            if item[0] == source.tag and not source.queue.no_ack:
                self._settlements.reject(item[1], True)
            else:
                kept.append(item)
        self._ready = kept

    def _cancel_frame(self, source: BrokerConsumer) -> bytes:
        return method_frame(self._channel_id, 60, 30, short_string(source.tag.decode()) + b"\x01")

    def _cancelled_by_broker(self, tag: bytes) -> None:
        source = self._sources.get(tag)
        if source is not None and self._current.get(source.name) is source:
            # Declaring here would read frames inside the read that calls this.
            self._ended.append(source)

    def _redeclare_ended(self) -> None:
        """Declare queues that were deleted, or have moved to another node, and consume from them again."""
        ended, self._ended = self._ended, []
        for source in ended:
            if self._current.get(source.name) is source:
                del self._current[source.name]
                source.cancelled = True
                logger.warning(
                    "The broker ended the consumer of queue %r (was the queue deleted?): the queue is declared again",
                    source.name,
                )
                self.add_queue(source.queue)

    # ------------------------------------------------------------ in

    def _arrived(self, item: Delivered) -> None:
        source = self._sources.get(item[0])
        if item[2]:
            self._redelivered = True
        if source is None or not source.queue.no_ack:
            self._settlements.add(item[1])
            if source is None or source.cancelled:
                self._settlements.reject(item[1], True)
                return
        self._ready.append(item)

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Send pending settlements and return up to `limit` deliveries."""
        self._check()
        ready = self._ready
        try:
            self._settle()
            if self._paused:
                self._resume()
            if len(ready) < limit:
                while self._connection.advance() and len(ready) < limit:
                    pass
                if not self._mode.per_consumer:
                    self._requeue_surplus()
                self._settle()
        except (*LOST, ChannelClosed) as error:
            self._fail(error)
        if self._ended:
            self._redeclare_ended()
        if self._acknowledged:
            return self._fetch_new(limit)
        count = min(limit, len(ready))
        return [self._delivery(ready.popleft()) for _ in range(count)]

    def pause_delivery(self, running: int) -> None:
        """Cancel every consumer that can be restarted, then send pending settlements.

        A lower prefetch limit would not stop delivery: the broker still sends a message for each acknowledged one.
        """
        self._check()
        try:
            if running <= len(self._settlements) < self._limit:
                for source in self._current.values():
                    if source.can_pause and not source.cancelled:
                        self._paused = True
                        self._cancel(source)
            self._settle()
        except LOST as error:
            self._fail(error)

    def _resume(self) -> None:
        """Restart the paused consumers."""
        self._paused = False
        for source in list(self._current.values()):
            if source.cancelled:
                if source.predecessor is not None:
                    # Its messages have arrived by now; later ones are requeued as of an unknown consumer.
                    del self._sources[source.predecessor.tag]
                    source.predecessor = None
                self._connection.write(self._consume_frame(self._new_source(source.queue, source)))

    def _fetch_new(self, limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        while self._ready and len(found) < limit:
            found += self._acknowledged.acknowledge_known([self._delivery(self._ready.popleft())])
        return found

    def poll_while_full(self) -> Sequence[Delivery] | None:
        """Read frames and keep new messages; return redelivered ones, whose tasks core may be running.

        Reads nothing and returns None without a prefetch limit, because the broker would then send any number.
        """
        self._check()
        if not self._limit or any(source.queue.no_ack for source in self._current.values()):
            return None
        try:
            while self._connection.advance():
                pass
        except (*LOST, ChannelClosed) as error:
            self._fail(error)
        if self._ended:
            self._redeclare_ended()
        redelivered: list[Delivery] = []
        if self._redelivered:
            self._redelivered = False
            ready, self._ready = self._ready, deque(item for item in self._ready if not item[2])
            redelivered = self._acknowledged.acknowledge_known([self._delivery(item) for item in ready if item[2]])
        if self._settlements.pending:
            self.flush()
        return redelivered

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over the acknowledgements of `lost`; the broker redelivers all other messages, so none is adopted."""
        if isinstance(lost, AmqpConsumer):
            # The broker redelivers originals that are parked but not acknowledged, too.
            lost._parking.finish(publish_until_accepted=False)
            self._acknowledged.remember(lost._acknowledged, lost._settlements.recent)
        return ()

    def _delivery(self, item: Delivered) -> AmqpDelivery:
        return read_delivery(item, self._sources[item[0]].queue, self._settlements, self._tries)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        self._check()
        return self._connection.fileno()

    def _wake(self) -> None:
        if self._ready or self._ended:
            self._connection.wake(self._channel_id)

    # ------------------------------------------------------------ out

    def flush(self) -> None:
        """Send pending settlements."""
        self._check()
        try:
            self._settle()
        except LOST as error:
            self._fail(error)

    def _settle(self) -> None:
        if self._parking:
            self._park()
        if self._settlements.pending:
            self._connection.write(self._settlements.frames(self._channel_id))

    def _park(self) -> None:
        self._parking.send_and_settle()
        self.due_at = self._parking.check_at
        # Sent before the acknowledgements, which would let the broker push more than a lowered limit.
        if not self._mode.per_consumer and self._prefetch_limit != self._sent_limit:
            self._send_qos()

    # ------------------------------------------------------------ limits

    @property
    def _prefetch_limit(self) -> int:
        """The limit of unacknowledged messages: messages being parked, which wait only for the broker, raise it."""
        if not self._limit:
            return 0
        return min(PREFETCH_MAX, self._limit + min(len(self._parking), PARKED_AHEAD))

    def prefetch(self, limit: int) -> None:
        """Set the prefetch limit: unacknowledged deliveries at a time; 0, or more than 65,535: any number."""
        self._check()
        wanted = limit if 0 < limit <= PREFETCH_MAX else 0
        if wanted == self._limit:
            return
        self._limit = wanted
        try:
            if self._mode.per_consumer:
                self._limit_consumers()
            else:
                self._send_qos()
            self._requeue_surplus()
            self._settle()
        except LOST as error:
            self._fail(error)

    def _requeue_surplus(self) -> None:
        """Requeue messages beyond a lowered limit: they would wait here while another worker is free.

        With limits per consumer this runs once, when the limit changes: there the consumers together may exceed it,
        and the broker would push the same messages again.
        """
        ready, limit = self._ready, self._prefetch_limit
        while limit and len(self._settlements) > limit and ready and not self._sources[ready[-1][0]].queue.no_ack:
            self._settlements.reject(ready.pop()[1], True)

    def _send_qos(self) -> None:
        whole_channel = not self._mode.per_consumer
        self._sent_limit = self._prefetch_limit if whole_channel else self._limit
        self._connection.write(method_frame(self._channel_id, 60, 10, _pack_qos(0, self._sent_limit, whole_channel)))

    def _limit_consumers(self) -> None:
        """Limit every consumer by itself: replace the current consumers, because only new ones obey a new limit."""
        if not self._mode.per_consumer:
            # The broker refuses quorum queues on a channel with a limit of its own.
            self._connection.write(method_frame(self._channel_id, 60, 10, _pack_qos(0, 0, True)))
            self._mode.per_consumer = True
        elif self._limit and self._consumers_limit / 2 <= self._limit <= self._consumers_limit * 2:
            # A new consumer's limit ignores the old one's messages: frequent changes would reserve too many.
            return
        self._consumers_limit = self._limit
        self._send_qos()
        for source in list(self._current.values()):
            # The new one starts first: an auto-delete queue must always have a consumer.
            if not source.cancelled:
                self._connection.write(self._consume_frame(self._new_source(source.queue)) + self._cancel_frame(source))

    def _consume_frame(self, source: BrokerConsumer) -> bytes:
        arguments = (
            b"\x00\x00"
            + short_string(source.name)
            + short_string(source.tag.decode())
            + (b"\x0a" if source.queue.no_ack else b"\x08")
            + write_table(source.queue.consumer_arguments or {})
        )
        return method_frame(self._channel_id, 60, 20, arguments)

    # ------------------------------------------------------------ heartbeats, closing

    def heartbeat(self) -> None:
        """Send a heartbeat. Raises `ConnectionLost` when the broker has sent nothing for two intervals."""
        self._check()
        connection = self._connection
        if not connection.heartbeat:
            return
        try:
            connection.send_heartbeat()
            silence = monotonic() - connection.last_received
            # Unread bytes prove that the broker lives; `fetch` reads them, or their wake-up would be lost.
            if silence > 2 * connection.heartbeat and not connection.readable():
                raise TimeoutError(f"no heartbeat for {silence:.0f} s")
        except LOST as error:
            self._fail(error)

    def close(self, *, requeue: bool) -> None:
        """Send pending settlements and disconnect; the broker always requeues unacknowledged messages."""
        if not self._dead:
            self._dead = True
            try:
                self._parking.finish(publish_until_accepted=True)
                self._settle()
            except LOST as error:
                self._broken = True
                logger.warning(
                    "Settlements could not be sent before closing: %s", lost(self._connection.address, error)
                )
        if self._broken:
            self._connection.abandon()
        else:
            self._connection.close_quietly()
        # Breaks a reference cycle; open deliveries can no longer be parked.
        self._settlements.parking = None

    def _check(self) -> None:
        if self._dead:
            raise ConnectionLost(f"the connection to {self._connection.address.display} is closed")

    def _fail(self, error: BaseException) -> NoReturn:
        self._dead = True
        self._broken = isinstance(error, LOST)
        if isinstance(error, TransportError):
            raise error
        if getattr(error, "reply_code", None) == _NOT_IMPLEMENTED and "global" in str(error):
            self._mode.per_consumer = True
        raise lost(self._connection.address, error) from error
