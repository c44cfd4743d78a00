"""Outbox: publishes the worker's own messages (dead letters, retries, hand-backs) over one connection.

It connects with the first message, and again after a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from framework.api.transport import Producer, Queue
from framework.exceptions import TransportError
from framework.message import Outgoing, again
from framework.worker.task_request import TaskRequest


class Outbox:
    """Publishes messages; declares each queue once for a connection."""

    def __init__(self, producer: Callable[[], Producer]) -> None:
        """`producer` makes the producer; called for each connection."""
        self._make_producer = producer
        self._producer: Producer | None = None
        self._declared: set[str] = set()

    def publish(self, *messages: Outgoing, declare: bool) -> None:
        """Publish `messages` to their queues; `declare`: declare the queues first.

        Raises `TransportError` after closing the connection.
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

    def retry(self, request: TaskRequest) -> None:
        """Publish the message of `request` to its queue again, with one more retry and the policy's delay as eta.

        Raises `TransportError`, and `MessageError` for an unreadable message.
        """
        due = datetime.now(UTC) + timedelta(seconds=request.policy.retry_delay)
        retries = (request.head.headers.retries or 0) + 1
        changes = {"retries": retries, "eta": due.isoformat() if request.policy.retry_delay else None}
        # The queue exists: the message came from it.
        self.publish(again(request.delivery.payload, request.delivery.queue, changes), declare=False)

    def close(self) -> None:
        """Disconnect; the next message connects again."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None
            self._declared.clear()
