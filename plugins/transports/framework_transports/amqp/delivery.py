"""One message that the broker has pushed."""

from __future__ import annotations

import logging
from typing import Final

from framework.api.transport import Delivery, Queue
from framework.message import JSON, UTF8, Payload
from framework_transports.amqp import native
from framework_transports.amqp.acknowledged import mark_of
from framework_transports.amqp.codec import MALFORMED, ContentHeader, read_content_header
from framework_transports.amqp.connection import Delivered
from framework_transports.amqp.levels import PARKING_BYTES, restore_headers
from framework_transports.amqp.settlements import Settlements
from framework_transports.amqp.tries import Tries

logger = logging.getLogger(__name__)

_PARKING_EXCHANGES: Final = (PARKING_BYTES, native.PREFIX_BYTES)


class AmqpDelivery(Delivery):
    """One unacknowledged message."""

    __slots__ = ("_settlements", "_tag", "_tries")

    def __init__(
        self, payload: Payload, queue: str, deliveries: int, settlements: Settlements | None, tag: int, tries: Tries
    ) -> None:
        self.payload = payload
        self.queue = queue
        self.deliveries = deliveries
        #: None once it is settled, or when its queue needs no acknowledgement.
        self._settlements = settlements
        self._tag = tag
        self._tries = tries

    def ack(self) -> None:
        """Acknowledge the message."""
        settlements = self._settlements
        if settlements is not None:
            self._settlements = None
            settlements.ack(self._tag)
            settlements.recent.append(mark_of(self.payload[0]))

    def reject(self, *, requeue: bool) -> None:
        """Requeue the message, or drop it (to the queue's own dead-letter exchange if it has one)."""
        settlements = self._settlements
        if settlements is not None:
            self._settlements = None
            if requeue:
                self._tries.note(self.payload, self.deliveries + 1)
            settlements.reject(self._tag, requeue)

    def park(self, until: float, key: str = "") -> bool:
        """Park a copy of the message, and acknowledge this one when the broker has confirmed the copy."""
        settlements = self._settlements
        if settlements is None or settlements.parking is None:
            return False
        if not settlements.parking.add(self.payload, self.queue, self._tag, until):
            return False
        self._settlements = None
        return True

    def release(self) -> None:
        """Requeue the message without counting a try."""
        settlements = self._settlements
        if settlements is not None:
            self._settlements = None
            settlements.reject(self._tag, True)


def read_delivery(item: Delivered, queue: Queue, settlements: Settlements, tries: Tries) -> AmqpDelivery:
    """Return the delivery for `item`, pushed from `queue`."""
    _, tag, redelivered, exchange, routing_key, raw, body = item
    try:
        headers, properties, content_type, content_encoding = read_content_header(raw)
    except MALFORMED as error:
        # Without a task header core moves it to the dead-letter queue, with its body.
        logger.error("A message in queue %r has headers that cannot be read: %s", queue.name, error)
        headers, properties, content_type, content_encoding = ContentHeader({"undecodable": str(error)}, {}, JSON, UTF8)
    source, key = exchange.decode(errors="replace"), routing_key.decode(errors="replace")
    if exchange.startswith(_PARKING_EXCHANGES):
        if exchange.startswith(PARKING_BYTES):
            source, key = restore_headers(headers, queue.name)
        else:
            source, key = queue.exchange.name, native.original_key(key)
    if queue.broadcast:
        source, key = "", queue.name
    properties["delivery_info"] = {"exchange": source, "routing_key": key, "redelivered": redelivered != 0}
    count = headers.get("x-delivery-count")
    deliveries = max(0, count) if type(count) is int else max(1, tries.of(headers)) if redelivered else 0
    return AmqpDelivery(
        (headers, properties, content_type, content_encoding, body),
        queue.name,
        deliveries,
        None if queue.no_ack else settlements,
        tag,
        tries,
    )
