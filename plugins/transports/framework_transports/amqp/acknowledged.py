"""What the last connection acknowledged last: the broker may not have heard of it, and hands it out again.

An ack is on its way for a moment, and nothing ever tells that it has arrived. What comes back is known by its id, its
number of retries (a retry is another message with the same id), and by the broker's word that it is not new.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Final

from framework.api.transport import Delivery

#: Seconds after a new connection within which the broker hands out what the last one had on loan.
_WITHIN: Final = 60.0


class Acknowledged:
    """Known for a while; empty, as usual, it is false."""

    def __init__(self) -> None:
        self._retries: dict[str, object] = {}
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self._retries)

    def learn(self, before: Acknowledged, recent: Iterable[object]) -> None:
        """Take over what the last connection knew, and what it acknowledged last: `recent`, messages' headers."""
        now = monotonic()
        if now < before._until:
            self._retries.update(before._retries)
        for headers in recent:
            if isinstance(headers, dict) and isinstance(task_id := headers.get("id"), str):
                self._retries[task_id] = headers.get("retries")
        self._until = now + _WITHIN

    def covers(self, delivery: Delivery) -> bool:
        """Say whether `delivery` is one of them, once."""
        if monotonic() > self._until:
            self._retries.clear()
        headers = delivery.payload[0]
        if not delivery.deliveries or not isinstance(headers, dict):
            return False
        task_id = headers.get("id")
        if task_id not in self._retries or self._retries[task_id] != headers.get("retries"):
            return False
        del self._retries[task_id]
        return True
