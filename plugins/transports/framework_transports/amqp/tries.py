"""How often this worker has given a message back that was tried: classic queues do not count that, quorum queues do.

The broker says no more of such a message than that it is not new. A task that kills its process each time would be
handed out for ever; counted here, it becomes a dead letter when this worker has tried it often enough.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from framework.message import Payload

#: Messages that are remembered, the latest.
_MOST: Final = 10_000


class Tries:
    """Counts by task id; shared by all consumers of a transport, so that a new connection goes on counting."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def note(self, payload: Payload, count: int) -> None:
        """Take note that the message has been handed out `count` times."""
        if (task_id := _id_of(payload)) is not None:
            self._counts[task_id] = count
            self._counts.move_to_end(task_id)
            if len(self._counts) > _MOST:
                self._counts.popitem(last=False)

    def of(self, headers: object) -> int:
        """Return how often the message with these headers has been handed out; 0: not as far as is known here."""
        task_id = headers.get("id") if isinstance(headers, dict) else None
        return self._counts.get(task_id, 0) if isinstance(task_id, str) else 0


def _id_of(payload: Payload) -> str | None:
    headers = payload[0] if isinstance(payload, tuple) else None
    task_id = headers.get("id") if isinstance(headers, dict) else None
    return task_id if isinstance(task_id, str) else None
