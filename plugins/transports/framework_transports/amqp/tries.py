"""Delivery counts of messages that this worker requeued after a try; quorum queues count by themselves, classic do not.

A classic queue only marks a requeued message as redelivered. Without a count, a task that kills its process each time
would be redelivered for ever; with it, the message becomes a dead letter after enough tries in this worker.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from framework.message import Payload

#: Messages whose count is kept; the oldest is dropped.
_MAX_REMEMBERED: Final = 10_000


class Tries:
    """Counts by task id; all consumers of a transport share it, so that counts survive a lost connection."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def note(self, payload: Payload, count: int) -> None:
        """Record that the message was delivered `count` times."""
        if (task_id := _id_of(payload)) is not None:
            self._counts[task_id] = count
            self._counts.move_to_end(task_id)
            if len(self._counts) > _MAX_REMEMBERED:
                self._counts.popitem(last=False)

    def of(self, headers: object) -> int:
        """Return the recorded count for the message with these headers; 0: none is recorded."""
        task_id = headers.get("id") if isinstance(headers, dict) else None
        return self._counts.get(task_id, 0) if isinstance(task_id, str) else 0


def _id_of(payload: Payload) -> str | None:
    headers = payload[0] if isinstance(payload, tuple) else None
    task_id = headers.get("id") if isinstance(headers, dict) else None
    return task_id if isinstance(task_id, str) else None
