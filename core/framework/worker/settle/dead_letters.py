"""Dead letters: moves messages to the dead-letter queue.

1. Wraps the unchanged message with the reason, the queue and the time, and publishes it to the dead-letter queue.
2. Acknowledges the original only when the broker has the copy, so that no message is lost.
3. Leaves a dead-letter queue alone for a while, longer each time, after the broker has refused a dead letter for it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final, NamedTuple

from framework.api.backoff import Backoff
from framework.api.transport import Delivery
from framework.exceptions import TransportError
from framework.wire.dead_letter import enclose
from framework.wire.identity import shared_queue
from framework.worker.settle.outbox import Outbox
from framework.worker.settle.unsent import Notices

logger = logging.getLogger(__name__)

#: Seconds between two attempts to publish to a dead-letter queue that is full: at first, and at most.
_PAUSE_FIRST: Final = 1.0
_PAUSE_MAX: Final = 10.0


class _Refusal(NamedTuple):
    """The last error of a dead-letter queue, and when to try again, on the clock of `monotonic`."""

    error: TransportError
    backoff: Backoff
    until: float


class DeadLetters:
    """Publishes dead letters and counts them."""

    def __init__(self, outbox: Outbox, template: str | None) -> None:
        """`template`: name of the dead-letter queue, e.g. ``{queue}.dlq``; None: messages are dropped."""
        self._outbox = outbox
        self._template = template
        #: Number of dead letters published, by reason.
        self.sent: Counter[str] = Counter()
        #: Dead-letter queues that the broker accepts nothing for, by name.
        self._full: dict[str, _Refusal] = {}
        self._notices = Notices()

    def queue_for(self, queue: str) -> str:
        """Return the name of the dead-letter queue of `queue`, or a text for the log if none is set."""
        return self._template.format(queue=shared_queue(queue)) if self._template else "no dead-letter queue (dropped)"

    def retry_at(self, queue: str) -> float:
        """Return when to send a message of `queue` again that could not be moved, in seconds since the epoch."""
        refusal = self._full.get(self.queue_for(queue))
        left = 0.0 if refusal is None else refusal.until - time.monotonic()
        return time.time() + max(left, _PAUSE_FIRST)

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
        refusal = self._full.get(name) if self._full else None
        try:
            if refusal is not None and time.monotonic() < refusal.until:
                raise refusal.error.with_traceback(None)
            self._outbox.publish(enclose(delivery, name, reason, text, task, task_id), declare=True)
        except TransportError as error:
            if error.temporary and (refusal is None or error is not refusal.error):
                backoff = Backoff(_PAUSE_FIRST, _PAUSE_MAX, jitter=0.0) if refusal is None else refusal.backoff
                self._full[name] = _Refusal(error, backoff, time.monotonic() + backoff.next())
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
