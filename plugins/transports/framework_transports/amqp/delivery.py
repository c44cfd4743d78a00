"""One message that the broker has pushed."""

from __future__ import annotations

from framework.api.transport import Delivery
from framework.message import Payload
from framework_transports.amqp.settlements import Settlements
from framework_transports.amqp.tries import Tries


class AmqpDelivery(Delivery):
    """One message on loan."""

    __slots__ = ("_settlements", "_tag", "_tries")

    def __init__(
        self,
        payload: Payload,
        queue: str,
        deliveries: int,
        settlements: Settlements | None,
        tag: int,
        tries: Tries,
    ) -> None:
        self.payload = payload
        self.queue = queue
        self.deliveries = deliveries
        #: None once it is settled, or when it never was on loan.
        self._settlements = settlements
        self._tag = tag
        self._tries = tries

    def ack(self) -> None:
        """The message is done with."""
        settlements = self._settlements
        if settlements is not None:
            self._settlements = None
            settlements.ack(self._tag)
            settlements.recent.append(self.payload[0])

    def reject(self, *, requeue: bool) -> None:
        """Give the message back, or drop it (to the queue's own dead-letter exchange where it has one)."""
        settlements = self._settlements
        if settlements is not None:
            self._settlements = None
            if requeue:
                self._tries.note(self.payload, self.deliveries + 1)
            settlements.reject(self._tag, requeue)

    def park(self, until: float, key: str = "") -> bool:
        """Have a copy of the message kept until its time, and this one acknowledged when the broker has that."""
        settlements = self._settlements
        if settlements is None or settlements.parking is None:
            return False
        if not settlements.parking.take(self.payload, self.queue, self._tag, until):
            return False
        self._settlements = None
        return True

    def release(self) -> None:
        """Give the message back as if it had never been fetched."""
        settlements = self._settlements
        if settlements is not None:
            self._settlements = None
            settlements.reject(self._tag, True)
