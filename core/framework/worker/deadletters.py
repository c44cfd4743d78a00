"""Dead letters: where messages go that can never become a task.

1. Wraps the message as it came, with the reason, the queue and the time, and publishes that to the dead-letter queue.
2. Only when the broker has the copy is the original acknowledged: at no moment is it in neither place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from framework._letters import enclose
from framework.api.transport import Delivery, Producer, Queue
from framework.exceptions import TransportError

logger = logging.getLogger(__name__)


class DeadLetters:
    """Buries messages."""

    def __init__(self, producer: Callable[[], Producer], template: str | None) -> None:
        """`producer` makes the producer when the first message is buried.

        `template` names the queue, e.g. ``{queue}.dlq``; None: what should be buried is dropped, with a log line.
        """
        self._make_producer = producer
        self._template = template
        self._producer: Producer | None = None
        self._declared: set[str] = set()
        self.buried = 0

    def queue_for(self, queue: str) -> str:
        """Return the name of the dead-letter queue of `queue`, or in words that there is none."""
        return self._template.format(queue=queue) if self._template else "no dead-letter queue (dropped)"

    def bury(
        self,
        delivery: Delivery,
        reason: str,
        text: str,
        task: str | None = None,
        task_id: str | None = None,
        *,
        acknowledged: bool = False,
    ) -> bool:
        """Move `delivery` to the dead-letter queue; return whether that worked.

        When the broker does not take it the message is given back instead, and the failure is logged.
        With `acknowledged` the broker has forgotten the original already, and there is only the copy.
        """
        if not self._template:
            if not acknowledged:
                delivery.ack()
            return True
        name = self.queue_for(delivery.queue)
        letter = enclose(delivery, name, reason, text, task, task_id)
        try:
            producer = self._producer = self._producer or self._make_producer()
            if name not in self._declared:
                producer.declare([Queue(name=name, routing_key=name)])
                self._declared.add(name)
            producer.publish([letter])
        except TransportError as error:
            if acknowledged:
                logger.critical("Message %s is lost, it could not be put into %s: %s", task_id, name, error)
                self.close()
                return False
            logger.error(
                "Message %s could not be moved to %s and stays in %s: %s",
                task_id or "without id",
                name,
                delivery.queue,
                error,
            )
            self.close()
            delivery.reject(requeue=True)
            return False
        self.buried += 1
        if not acknowledged:
            delivery.ack()
        return True

    def close(self) -> None:
        """Disconnect; the next message connects again."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None
            self._declared.clear()
