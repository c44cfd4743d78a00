"""What the last connection acknowledged last: the broker may not have heard of it, and hands it out again.

An ack is on its way for a moment, and nothing ever tells that it has arrived. What comes back is known by its id, its
number of retries (a retry is another message with the same id), when it was parked or handed back (so is the copy that
is to come later), and by the broker's word that it is not new.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Final

from framework.api.transport import Delivery
from framework.message import HANDED_BACK
from framework_transports.amqp.levels import HEADER

#: Seconds after a new connection within which the broker hands out what the last one had on loan.
_WITHIN: Final = 60.0


class Acknowledged:
    """Known for a while; empty, as usual, it is false."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, ...]] = {}
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self._known)

    def learn(self, before: Acknowledged, recent: Iterable[object]) -> None:
        """Take over what the last connection knew, and what it acknowledged last: `recent`, messages' headers."""
        now = monotonic()
        if now < before._until:
            self._known.update(before._known)
        for headers in recent:
            if isinstance(headers, dict) and isinstance(task_id := headers.get("id"), str):
                self._known[task_id] = _which(headers)
        self._until = now + _WITHIN

    def sift(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Acknowledge those of `deliveries` once more; return the others."""
        others = []
        for delivery in deliveries:
            if self.covers(delivery):
                delivery.ack()
            else:
                others.append(delivery)
        return others

    def covers(self, delivery: Delivery) -> bool:
        """Say whether `delivery` is one of them, once."""
        if monotonic() > self._until:
            self._known.clear()
        headers = delivery.payload[0]
        if not delivery.deliveries or not isinstance(headers, dict):
            return False
        task_id = str(headers.get("id"))
        if self._known.get(task_id) != _which(headers):
            return False
        del self._known[task_id]
        return True


def _which(headers: dict[str, object]) -> tuple[object, ...]:
    """Return what tells messages of one id apart."""
    return headers.get("retries"), headers.get(HEADER), headers.get(HANDED_BACK)
