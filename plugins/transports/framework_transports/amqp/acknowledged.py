"""Messages whose acknowledgement a lost connection may have dropped: the broker then redelivers them.

AMQP does not confirm acks. A redelivered message is recognised by its id, its number of retries (a retry is another
message with the same id), its time of parking or handing back (a copy differs in it), and the redelivered flag.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any, Final, TypeAlias

from framework.api.transport import Delivery
from framework.message import HANDED_BACK
from framework_transports.amqp.levels import HEADER

Mark: TypeAlias = tuple[object, ...]

#: Seconds after reconnecting within which the broker redelivers the lost connection's messages.
_WITHIN: Final = 60.0


class Acknowledged:
    """Marks of recently acknowledged messages, kept for a while; falsy without any."""

    def __init__(self) -> None:
        self._known: dict[object, Mark] = {}
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self._known)

    def remember(self, before: Acknowledged, recent: Iterable[Mark]) -> None:
        """Take over the marks of the lost connection: `before`, and those of its last acks, `recent`."""
        now = monotonic()
        if now < before._until:
            self._known.update(before._known)
        self._known.update((mark[0], mark) for mark in recent)
        self._until = now + _WITHIN

    def acknowledge_known(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Acknowledge again those of `deliveries` that were acknowledged before; return the others."""
        others = []
        for delivery in deliveries:
            if self._pop(delivery):
                delivery.ack()
            else:
                others.append(delivery)
        return others

    def _pop(self, delivery: Delivery) -> bool:
        """Return whether `delivery` was acknowledged before, and remove its mark."""
        if monotonic() > self._until:
            self._known.clear()
        mark = mark_of(delivery.payload[0])
        if not delivery.deliveries or mark[0] is None or self._known.get(mark[0]) != mark:
            return False
        del self._known[mark[0]]
        return True


def mark_of(headers: Any) -> Mark:
    """Return the message's id (None: it has none) and the headers that tell messages of one id apart."""
    get = headers.get
    task_id = get("id")
    # A foreign message's id may be of an unhashable type.
    return (task_id if type(task_id) is str else None), get("retries"), get(HEADER), get(HANDED_BACK)
