"""The consumer: polls its queues in turn; a `PollTimer` wakes the loop for the next poll."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost, TransportError
from framework.message import JSON, UTF8, Payload
from framework_transports.kombu.broker import KombuBroker
from framework_transports.kombu.poll_timer import PollTimer


class KombuDelivery(Delivery):
    """One unacknowledged message."""

    __slots__ = ("_consumer", "_message")

    def __init__(self, payload: Payload, queue: str, deliveries: int, consumer: KombuConsumer, message: Any) -> None:
        self.payload = payload
        self.queue = queue
        self.deliveries = deliveries
        self._consumer = consumer
        self._message = message

    def ack(self) -> None:
        """Acknowledge the message with the next `flush` or `fetch`."""
        self._settle("ack")

    def reject(self, *, requeue: bool) -> None:
        """Requeue the message, or drop it."""
        self._settle("requeue" if requeue else "reject")

    def _settle(self, how: str) -> None:
        message, self._message = self._message, None
        if message is not None:
            self._consumer.settle(message, how)


class KombuConsumer(Consumer):
    """Polls any number of queues in turn."""

    def __init__(self, broker: KombuBroker, polling_interval: float) -> None:
        self._broker = broker
        self._dead = False
        self._queues: deque[Queue] = deque()
        self._pending: list[tuple[Any, str]] = []
        #: Unacknowledged messages by identity, because kombu's messages are not all hashable.
        self._unacked: dict[int, Any] = {}
        self._poll_timer = PollTimer(polling_interval)

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and start consuming from it."""
        self._check()
        if any(known.name == queue.name for known in self._queues):
            return
        with self._errors():
            self._broker.declare(queue)
        self._queues.append(queue)
        self._poll_timer.arm(found=True)

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`."""
        self._queues = deque(queue for queue in self._queues if queue.name != name)

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Send pending settlements and return up to `limit` deliveries, from the queues in turn."""
        self._check()
        self._poll_timer.drain()
        found: list[Delivery] = []
        with self._errors():
            self._send_pending()
            empty = 0
            while len(found) < limit and empty < len(self._queues):
                queue = self._queues[0]
                self._queues.rotate(-1)
                message = self._broker.channel.basic_get(queue.name, no_ack=queue.no_ack)
                if message is None:
                    empty += 1
                    continue
                empty = 0
                found.append(self._delivery(message, queue))
        if len(found) < limit:
            self._poll_timer.arm(found=bool(found))
        return found

    def _delivery(self, message: Any, queue: Queue) -> KombuDelivery:
        body = message.body
        properties = _plain(message.properties or {})
        information = message.delivery_info or {}
        properties["delivery_info"] = {
            "exchange": information.get("exchange"),
            "routing_key": information.get("routing_key"),
            "redelivered": bool(information.get("redelivered")),
        }
        payload: Payload = (
            _plain(message.headers or {}),
            properties,
            message.content_type or JSON,
            message.content_encoding or UTF8,
            body.encode() if isinstance(body, str) else bytes(body),
        )
        if not queue.no_ack:
            self._unacked[id(message)] = message
        return KombuDelivery(
            payload, queue.name, 1 if information.get("redelivered") else 0, self, None if queue.no_ack else message
        )

    def settle(self, message: Any, how: str) -> None:
        """Add a settlement of `message`: ``ack``, ``reject`` or ``requeue``."""
        self._unacked.pop(id(message), None)
        self._pending.append((message, how))

    def flush(self) -> None:
        """Send pending settlements."""
        self._check()
        with self._errors():
            self._send_pending()

    def _send_pending(self) -> None:
        pending, self._pending = self._pending, []
        for message, how in pending:
            getattr(message, how)()

    def fileno(self) -> int:
        """Return the descriptor that turns readable for the next poll."""
        self._check()
        return self._poll_timer.fileno()

    def close(self, *, requeue: bool) -> None:
        """Send pending settlements, requeue unacknowledged messages if `requeue`, and disconnect."""
        if self._dead:
            return
        if requeue:
            for message in list(self._unacked.values()):
                self.settle(message, "requeue")
        with suppress(TransportError), self._errors():
            self._send_pending()
        self._dead = True
        self._poll_timer.close()
        self._broker.close()

    def _check(self) -> None:
        if self._dead:
            raise ConnectionLost(f"the connection to {self._broker.display_url} is closed")

    def _errors(self) -> Any:
        return self._broker.errors()


def _plain(value: Any) -> Any:
    """Return `value` with all parts converted to types that `marshal` can encode."""
    if value is None or isinstance(value, (str, int, float, bytes)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)
