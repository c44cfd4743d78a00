"""Dead letters: where messages go that can never become a task.

1. Wraps the message as it came, with the reason, the queue and the time, and publishes that to the dead-letter queue.
2. Only when the broker has the copy is the original acknowledged: at no moment is it in neither place.
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
    """Buries messages."""

    def __init__(self, outbox: Outbox, template: str | None) -> None:
        """`outbox` publishes the letters.

        `template` names the queue, e.g. ``{queue}.dlq``; None: what should be buried is dropped, with a log line.
        """
        self._outbox = outbox
        self._template = template
        #: Letters written, by reason.
        self.buried: Counter[str] = Counter()

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
            self._outbox.publish(letter, declare=True)
        except TransportError as error:
            if acknowledged:
                logger.critical("Message %s is lost, it could not be put into %s: %s", task_id, name, error)
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
        self.buried[reason] += 1
        if not acknowledged:
            delivery.ack()
        return True
