"""An unacknowledged message: settling it adds its row to the consumer's next transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.api.transport import Delivery

if TYPE_CHECKING:
    from framework_transports.sqlite.consumer import SqliteConsumer


class SqliteDelivery(Delivery):
    """An unacknowledged message."""

    __slots__ = ("consumer", "id")

    def __init__(self, consumer: SqliteConsumer, row_id: int, queue: str, deliveries: int, payload: bytes) -> None:
        self.consumer: SqliteConsumer | None = consumer
        self.id = row_id
        self.queue = queue
        self.deliveries = deliveries
        self.payload = payload

    def ack(self) -> None:
        """Delete the message; a second settlement is ignored."""
        consumer = self.consumer
        if consumer is not None:
            self.consumer = None
            consumer.acked.append(self.id)

    def reject(self, *, requeue: bool) -> None:
        """Drop the message, or put it back to the front of its queue if `requeue`."""
        consumer = self.consumer
        if consumer is not None:
            self.consumer = None
            (consumer.requeued if requeue else consumer.acked).append(self.id)

    def release(self) -> None:
        """Put the message back to the front of its queue, uncounted."""
        consumer = self.consumer
        if consumer is not None:
            self.consumer = None
            consumer.released.append(self.id)

    def park(self, until: float, key: str = "") -> bool:
        """Move the message to the parked messages."""
        consumer = self.consumer
        if consumer is not None:
            self.consumer = None
            consumer.parks.append((self.id, until, key))
        return True
