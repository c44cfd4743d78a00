"""Hand-backs: copies of messages on their way back to the queues that they came from.

1. Publishes many in one go, in a turn of the loop of their own: a broker that confirms takes milliseconds for one, and
   hardly more for a hundred.
2. Acknowledges the originals of those that the broker has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from framework.api.loop import Loop
from framework.api.transport import Delivery
from framework.exceptions import PublishRefused, TransportError
from framework.message import Outgoing
from framework.worker.outbox import Outbox

logger = logging.getLogger(__name__)

#: Copies that are published in one turn.
_BATCH: Final = 256


class HandBacks:
    """Used in the loop only."""

    def __init__(self, loop: Loop, outbox: Outbox, keep: Callable[[Delivery], object]) -> None:
        """`keep` is called with each original whose copy the broker did not take."""
        self._loop = loop
        self._outbox = outbox
        self._keep = keep
        self._waiting: list[tuple[Delivery, Outgoing]] = []
        self._asked = False
        #: Called after each turn, when originals have been acknowledged.
        self.on_sent: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        """Return how many originals are on loan and wait for their copies."""
        return len(self._waiting)

    def add(self, delivery: Delivery, copy: Outgoing) -> None:
        """Have `copy` published soon, and `delivery` acknowledged then."""
        self._waiting.append((delivery, copy))
        self._ask()

    def clear(self) -> list[Delivery]:
        """Forget those that wait, and return the originals."""
        waiting, self._waiting = self._waiting, []
        return [delivery for delivery, _ in waiting]

    def _ask(self) -> None:
        if self._waiting and not self._asked:
            self._asked = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._asked = False
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        if not batch:
            return
        refused = self._publish(batch)
        for number, (delivery, _) in enumerate(batch):
            if number in refused:
                self._keep(delivery)
            else:
                delivery.ack()
        self.on_sent()
        self._ask()

    def _publish(self, batch: list[tuple[Delivery, Outgoing]]) -> frozenset[int]:
        """Publish the copies; return the numbers of those that the broker does not have, or may not have."""
        everything = frozenset(range(len(batch)))
        try:
            # The queues are there: the messages came from them.
            self._outbox.publish(*(copy for _, copy in batch), declare=False)
        except TransportError as error:
            refused = error.refused if isinstance(error, PublishRefused) else None
            if refused is None:
                refused = everything
            logger.error(
                "%d messages could not be handed back to %s, yet: %s",
                len(refused),
                ", ".join(sorted({batch[number][0].queue for number in refused})),
                error,
            )
            return refused
        return frozenset()
