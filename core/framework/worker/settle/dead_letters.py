"""Dead letters: moves messages to the dead-letter queue.

1. Wraps the unchanged message with the reason, the queue and the time, and publishes it to the dead-letter queue.
2. Acknowledges the original only when the broker has the copy, so that no message is lost.
3. Leaves a dead-letter queue alone for a while, longer each time, after the broker has refused a dead letter for it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

from framework.api.backoff import Backoff
from framework.api.transport import Delivery
from framework.exceptions import TransportError
from framework.wire.dead_letter import enclose
from framework.worker.settle.outbox import Outbox
from framework.worker.settle.unsent import Notices

logger = logging.getLogger(__name__)

#: Seconds between two attempts to publish to a dead-letter queue that is full: at first, and at most.
_PAUSE_FIRST: Final = 1.0
_PAUSE_MAX: Final = 10.0


class DeadLetters:
    """Publishes dead letters and counts them."""

    def __init__(self, outbox: Outbox, template: str | None) -> None:
        """`template`: name of the dead-letter queue, e.g. ``{queue}.dlq``; None: messages are dropped."""
        self._outbox = outbox
        self._template = template
        #: Number of dead letters published, by reason.
        self.sent: Counter[str] = Counter()
        #: Dead-letter queues that are full: their back-off, and when to try again.
        self._full: dict[str, tuple[Backoff, float]] = {}
        self._notices = Notices()

    def queue_for(self, queue: str) -> str:
        """Return the name of the dead-letter queue of `queue`, or a text for the log if none is set."""
        return self._template.format(queue=queue) if self._template else "no dead-letter queue (dropped)"

    def retry_at(self, queue: str) -> float:
        """Return when to send a message of `queue` again that could not be moved, in seconds since the epoch."""
        _backoff, until = self._full.get(self.queue_for(queue), (None, 0.0))
        return time.time() + max(until - time.monotonic(), _PAUSE_FIRST)

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

        If it did not, the failure is logged, the message is not settled, and the caller sends it again later.
        `acknowledged`: the original is acknowledged already.
        """
        if not self._template:
            if not acknowledged:
                delivery.ack()
            return True
        name = self.queue_for(delivery.queue)
        if self._full and name in self._full and time.monotonic() < self._full[name][1]:
            return False
        try:
            self._outbox.publish(enclose(delivery, name, reason, text, task, task_id), declare=True)
        except TransportError as error:
            if error.temporary:
                backoff = self._full[name][0] if name in self._full else Backoff(_PAUSE_FIRST, _PAUSE_MAX, jitter=0.0)
                self._full[name] = (backoff, time.monotonic() + backoff.next())
            self._notices.error(
                f"{reason} {name}",
                "Message %s (%s) from %s could not be moved to %s. This worker keeps it, and others with this reason, "
                "%s, and tries again until the broker accepts them: %s",
                task_id or "without id",
                reason,
                delivery.queue,
                name,
                "in its memory, as they are acknowledged already" if acknowledged else "unacknowledged",
                error,
            )
            return False
        if self._full.pop(name, None) is not None:
            logger.info("The broker accepts dead letters for %s again", name)
        self.sent[reason] += 1
        if not acknowledged:
            delivery.ack()
        return True
