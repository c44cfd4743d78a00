"""Dead letters: moves messages to the dead-letter queue.

1. Wraps the unchanged message with the reason, the queue and the time, and publishes it to the dead-letter queue.
2. Acknowledges the original only when the broker has the copy, so that no message is lost.
"""

from __future__ import annotations

import logging
from collections import Counter

from framework.api.transport import Delivery
from framework.exceptions import TransportError
from framework.wire.dead_letter import enclose
from framework.worker.settle.outbox import Outbox

logger = logging.getLogger(__name__)


class DeadLetters:
    """Publishes dead letters and counts them."""

    def __init__(self, outbox: Outbox, template: str | None) -> None:
        """`template`: name of the dead-letter queue, e.g. ``{queue}.dlq``; None: messages are dropped."""
        self._outbox = outbox
        self._template = template
        #: Number of dead letters published, by reason.
        self.sent: Counter[str] = Counter()

    def queue_for(self, queue: str) -> str:
        """Return the name of the dead-letter queue of `queue`, or a text for the log if none is set."""
        return self._template.format(queue=queue) if self._template else "no dead-letter queue (dropped)"

    def send(
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

        If the broker refuses the dead letter, the message is requeued and the failure logged. `acknowledged`: the
        original is acknowledged already.
        """
        if not self._template:
            if not acknowledged:
                delivery.ack()
            return True
        name = self.queue_for(delivery.queue)
        dead_letter = enclose(delivery, name, reason, text, task, task_id)
        try:
            self._outbox.publish(dead_letter, declare=True)
        except TransportError as error:
            if acknowledged:
                logger.critical("Message %s is lost, it could not be moved to %s: %s", task_id, name, error)
                return False
            logger.error(
                "Message %s could not be moved to %s and stays in %s: %s",
                task_id or "without id",
                name,
                delivery.queue,
                error,
            )
            delivery.reject(requeue=True)
            return False
        self.sent[reason] += 1
        if not acknowledged:
            delivery.ack()
        return True
