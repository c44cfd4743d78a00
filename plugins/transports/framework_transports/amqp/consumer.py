"""The consumer: takes what the broker pushes, hands it out in batches, and settles in batches.

1. Consumes from any number of queues on one channel; declares them on another.
2. `fetch` sends settlements, reads what the socket has, and hands out up to `limit` deliveries; it never waits.
3. Limits what the broker pushes. Classic queues share one limit for the channel, which can be changed in flight.
   Quorum queues and streams only know a limit per consumer, fixed when it begins: a new one takes over from the old.
4. Anything that came in while we waited for the answer to a declaration is announced by asking the broker for another
   answer (`AmqpConnection.nudge`), so that the loop wakes up.
5. Sends heartbeats, and notices when the broker's stay away.
6. After a lost connection the broker hands out again what it has not heard to be acknowledged; see `Acknowledged`.
7. A queue that is deleted while it is consumed from is declared again.
8. `poll_while_full` hears the broker out while core wants no messages: that it closes the channel, or hands out again
   what runs.
9. What is parked (see `AmqpParking`) is pushed like anything else when its time comes: `due_at` only says when to look
   whether the broker has it.
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
from framework_transports.amqp.parking import AmqpParking
from framework_transports.amqp.settlements import Settlements
from framework_transports.amqp.topology import Declarer, counts_on_queue, explained
from framework_transports.amqp.tries import Tries

logger = logging.getLogger(__name__)

#: Before core says how much it wants: enough to begin with, too little to hoard.
PREFETCH_DEFAULT: Final = 16
#: More than this, the wire's two bytes cannot say: no limit.
PREFETCH_MAX: Final = 65_535
#: Messages that may be on their way to be parked, beyond the limit.
PARKED_AHEAD: Final = 1_000

_pack_qos = Struct(">IHB").pack
_NOT_IMPLEMENTED: Final = 540


class AmqpConsumer(Consumer):
    """Fetches from a set of queues over one connection."""

    pushes = True

    def __init__(
        self, connection: AmqpConnection, mode: QosMode, tries: Tries, connector: Connector, delayed_in: str
    ) -> None:
        """`connector` makes the connection that messages for later are parked over.

        `delayed_in`: the kind of queue, ``quorum`` or ``classic``, in which Celery's clients find delayed delivery.
        """
        self._connection = connection
        self._mode = mode
        self._tries = tries
        self._delayed_in = delayed_in
        self._dead = False
        #: The connection itself is gone: nobody to say goodbye to.
        self._broken = False
        self._settlements = Settlements()
        self._parking = self._settlements.parking = AmqpParking(connector, self._settlements)
        self._acknowledged = Acknowledged()
        self._ready: deque[Delivered] = deque()
        #: Something that is not new has arrived since `poll_while_full` looked.
        self._again = False
        #: Those that the broker has ended and nobody has replaced yet.
        self._ended: list[BrokerConsumer] = []
        #: By consumer tag, ended ones too: what they pushed may still arrive.
        self._sources: dict[bytes, BrokerConsumer] = {}
        self._current: dict[str, BrokerConsumer] = {}
        #: Some of these rest.
        self._resting = False
        self._numbers = 0
        self._limit = PREFETCH_DEFAULT
        #: What the channel was told: the limit, and what is being parked beside that.
        self._told = PREFETCH_DEFAULT
        #: The limit that per-consumer sources were begun with.
        self._begun_with = PREFETCH_DEFAULT
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
        # The shorter of the broker's wish and ours; asked thrice in the time, so that one late turn does no harm.
        self.heartbeat_interval = connection.heartbeat / 3 if connection.heartbeat else None

    # ------------------------------------------------------------ queues

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and consume from it too. Raises `TransportError` when the broker has it otherwise."""
        self._check()
        if queue.name in self._current:
            return
        try:
            self._declarer.declare(queue)
            if native.expected(queue):
                native.declare(self._declarer, queue, self._delayed_in)
            if counts_on_queue(queue) and not self._mode.per_consumer:
                self._limit_each()
            source = self._new_source(queue)
            self._channel.basic_consume(
                queue.name,
                consumer_tag=source.tag.decode(),
                no_ack=queue.no_ack,
                arguments=queue.consumer_arguments,
            )
            self._wake()
        except ChannelClosed as closed:
            # Its messages on loan went back with the channel: the consumer cannot go on.
            self._dead = True
            raise explained(closed, "queue", queue.name) from closed
        except LOST as error:
            self._fail(error)

    def _new_source(self, queue: Queue, before: BrokerConsumer | None = None) -> BrokerConsumer:
        self._numbers += 1
        source = BrokerConsumer(queue, b"%d" % self._numbers, before)
        self._sources[source.tag] = source
        self._current[queue.name] = source
        self._parking.know(queue)
        return source

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; what was not fetched yet goes back."""
        self._check()
        source = self._current.pop(name, None)
        if source is None:
            return
        try:
            if not source.cancelled:
                self._end(source)
            self._settle()
        except LOST as error:
            self._fail(error)

    def _end(self, source: BrokerConsumer) -> None:
        """Cancel `source`, and give back what it was sent that was not fetched."""
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
            # Not now: there are frames to be read first.
            self._ended.append(source)

    def _begin_again(self) -> None:
        """Declare what was deleted, or has moved to another node, and consume from it."""
        ended, self._ended = self._ended, []
        for source in ended:
            if self._current.get(source.name) is source:
                del self._current[source.name]
                source.cancelled = True
                logger.warning(
                    "The broker ended the consumer of queue %r (was the queue deleted?): it is declared again",
                    source.name,
                )
                self.add_queue(source.queue)

    # ------------------------------------------------------------ in

    def _arrived(self, item: Delivered) -> None:
        source = self._sources.get(item[0])
        if item[2]:
            self._again = True
        if source is None or not source.queue.no_ack:
            self._settlements.lend(item[1])
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
            if self._resting:
                self._rise()
            if len(ready) < limit:
                while self._connection.advance() and len(ready) < limit:
                    pass
                if not self._mode.per_consumer:
                    self._return_surplus()
                self._settle()
        except (*LOST, ChannelClosed) as error:
            self._fail(error)
        if self._ended:
            self._begin_again()
        if self._acknowledged:
            return self._fetch_new(limit)
        count = min(limit, len(ready))
        return [self._delivery(ready.popleft()) for _ in range(count)]

    def pause_delivery(self, running: int) -> None:
        """Send pending settlements, and before them the end of every consumer that can be begun again.

        A limit does not do: the least that there is, is one message for each that is acknowledged.
        """
        self._check()
        try:
            if running <= len(self._settlements) < self._limit:
                for source in self._current.values():
                    if source.may_rest and not source.cancelled:
                        self._resting = True
                        self._end(source)
            self._settle()
        except LOST as error:
            self._fail(error)

    def _rise(self) -> None:
        """Begin the consumers again that rest."""
        self._resting = False
        for source in list(self._current.values()):
            if source.cancelled:
                if source.before is not None:
                    # What it still had to say has come, or comes as from a stranger.
                    del self._sources[source.before.tag]
                    source.before = None
                self._connection.write(self._consume_frame(self._new_source(source.queue, source)))

    def _fetch_new(self, limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        while self._ready and len(found) < limit:
            found += self._acknowledged.sift([self._delivery(self._ready.popleft())])
        return found

    def poll_while_full(self) -> Sequence[Delivery] | None:
        """Read without handing out; return what is not new, for core may be running it.

        None, and nothing is read, where no limit keeps the broker from sending more than there is room for.
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
            self._begin_again()
        again: list[Delivery] = []
        if self._again:
            self._again = False
            ready, self._ready = self._ready, deque(item for item in self._ready if not item[2])
            again = self._acknowledged.sift([self._delivery(item) for item in ready if item[2]])
        if self._settlements.pending:
            self.flush()
        return again

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Learn what `lost` has acknowledged; the broker has taken all else back, and hands it out again."""
        if isinstance(lost, AmqpConsumer):
            # What the broker has parked and we have not acknowledged comes back, too.
            lost._parking.finish(publish_until_accepted=False)
            self._acknowledged.learn(lost._acknowledged, lost._settlements.recent)
        return ()

    def _delivery(self, item: Delivered) -> AmqpDelivery:
        return read_delivery(item, self._sources[item[0]].queue, self._settlements, self._tries)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        self._check()
        return self._connection.fileno()

    def _wake(self) -> None:
        if self._ready or self._ended:
            self._connection.nudge(self._channel_id)

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
        self._parking.exchange()
        self.due_at = self._parking.ask_at
        # Before acknowledgements make room that is not there any more.
        if not self._mode.per_consumer and self._allowed != self._told:
            self._send_qos()

    # ------------------------------------------------------------ limits

    @property
    def _allowed(self) -> int:
        """How many may be on loan: those that are being parked wait for nothing but the broker."""
        if not self._limit:
            return 0
        return min(PREFETCH_MAX, self._limit + min(len(self._parking), PARKED_AHEAD))

    def prefetch(self, limit: int) -> None:
        """Learn that at most `limit` deliveries will be on loan at a time; 0, or more than 65,535: any number."""
        self._check()
        wanted = limit if 0 < limit <= PREFETCH_MAX else 0
        if wanted == self._limit:
            return
        self._limit = wanted
        try:
            if self._mode.per_consumer:
                self._limit_each()
            else:
                self._send_qos()
            self._return_surplus()
            self._settle()
        except LOST as error:
            self._fail(error)

    def _return_surplus(self) -> None:
        """Give back what exceeds a lowered limit: it would wait here while another worker is free.

        Where each consumer is limited by itself this is done once, when the limit changes: there the broker may rightly
        send more in all, and would send the same again.
        """
        ready, limit = self._ready, self._allowed
        while limit and len(self._settlements) > limit and ready and not self._sources[ready[-1][0]].queue.no_ack:
            self._settlements.reject(ready.pop()[1], True)

    def _send_qos(self) -> None:
        whole_channel = not self._mode.per_consumer
        self._told = self._allowed if whole_channel else self._limit
        self._connection.write(method_frame(self._channel_id, 60, 10, _pack_qos(0, self._told, whole_channel)))

    def _limit_each(self) -> None:
        """Limit every consumer by itself; the ones there are make way for new ones, which alone obey a new limit."""
        if not self._mode.per_consumer:
            # Back to no limit for the channel, or quorum queues are refused on it.
            self._connection.write(method_frame(self._channel_id, 60, 10, _pack_qos(0, 0, True)))
            self._mode.per_consumer = True
        elif self._begun_with and self._limit and self._begun_with / 2 <= self._limit <= self._begun_with * 2:
            # What the old consumer was given does not count for the new one: to change often would hoard.
            return
        self._begun_with = self._limit
        self._send_qos()
        for source in list(self._current.values()):
            # The new one first: a queue that deletes itself with its last consumer must have one throughout.
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

    # ------------------------------------------------------------ life

    def heartbeat(self) -> None:
        """Send a heartbeat; raises `ConnectionLost` when the broker's have stayed away for two intervals."""
        self._check()
        connection = self._connection
        if not connection.heartbeat:
            return
        try:
            connection.send_heartbeat()
            silence = monotonic() - connection.last_received
            # What lies unread was sent by a living broker; it is left for `fetch`, or its wake-up would be lost.
            if silence > 2 * connection.heartbeat and not connection.readable():
                raise TimeoutError(f"no heartbeat for {silence:.0f} s")
        except LOST as error:
            self._fail(error)

    def close(self, *, requeue: bool) -> None:
        """Send pending settlements and disconnect; the broker takes back what is on loan, asked or not."""
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
            self._connection.goodbye()
        # It leads back there; what is still on loan cannot be parked any more.
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
