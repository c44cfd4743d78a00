"""The outbox: what the worker itself publishes to queues, dead letters and retries, over one connection.

It connects when the first message goes out, and again after a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from framework.api.transport import Producer, Queue
from framework.exceptions import TransportError
from framework.message import Outgoing, again
from framework.worker.task_request import TaskRequest


class Outbox:
    """Publishes, and knows which queues it has declared."""

    def __init__(self, producer: Callable[[], Producer]) -> None:
        """`producer` makes the producer when it is wanted."""
        self._make_producer = producer
        self._producer: Producer | None = None
        self._declared: set[str] = set()

    def publish(self, *messages: Outgoing, declare: bool) -> None:
        """Publish `messages` to their queues, which are declared first if `declare`.

        Raises `TransportError`; the connection is then closed.
        """
        try:
            producer = self._producer = self._producer or self._make_producer()
            for name in {message.routing_key for message in messages} - self._declared if declare else ():
                producer.declare([Queue(name=name, routing_key=name)])
                self._declared.add(name)
            producer.publish(messages)
        except TransportError:
            self.close()
            raise

    def retry(self, item: TaskRequest) -> None:
        """Send the message of `item` again to the queue that it came from, its retries counted up, after the delay.

        Raises `TransportError`, and `MessageError` for a message that cannot be taken apart.
        """
        due = datetime.now(UTC) + timedelta(seconds=item.policy.retry_delay)
        retries = (item.head.headers.retries or 0) + 1
        changes = {"retries": retries, "eta": due.isoformat() if item.policy.retry_delay else None}
        # The queue is there: the message came from it.
        self.publish(again(item.delivery.payload, item.delivery.queue, changes), declare=False)

    def close(self) -> None:
        """Disconnect; the next message connects again."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None
            self._declared.clear()
