"""What the last connection acknowledged last: the broker may not have heard of it, and hands it out again.

An ack is on its way for a moment, and nothing ever tells that it has arrived. What comes back is known by its id, its
number of retries (a retry is another message with the same id), when it was parked or handed back (so is the copy that
is to come later), and by the broker's word that it is not new.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any, Final, TypeAlias

from framework.api.transport import Delivery
from framework.message import HANDED_BACK
from framework_transports.amqp.levels import HEADER

Mark: TypeAlias = tuple[object, ...]

#: Seconds after a new connection within which the broker hands out what the last one had on loan.
_WITHIN: Final = 60.0


class Acknowledged:
    """Known for a while; empty, as usual, it is false."""

    def __init__(self) -> None:
        self._known: dict[object, Mark] = {}
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self._known)

    def learn(self, before: Acknowledged, recent: Iterable[Mark]) -> None:
        """Take over what the last connection knew, and what it acknowledged last: `recent`, messages' marks."""
        now = monotonic()
        if now < before._until:
            self._known.update(before._known)
        self._known.update((mark[0], mark) for mark in recent)
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
        mark = mark_of(delivery.payload[0])
        if not delivery.deliveries or mark[0] is None or self._known.get(mark[0]) != mark:
            return False
        del self._known[mark[0]]
        return True


def mark_of(headers: Any) -> Mark:
    """Return the id of the message with these headers (None: it has none), and what tells messages of one id apart.

    Far less than the headers, of which thousands would be kept.
    """
    get = headers.get
    task_id = get("id")
    # It is somebody else's, and may be what cannot be looked up.
    return (task_id if type(task_id) is str else None), get("retries"), get(HEADER), get(HANDED_BACK)
