"""Revoked ids: tasks that must not run, whether their message is here already or still to come.

1. Remembers ids in the order in which they came, up to `maximum`, each for `expires` seconds of wall-clock time.
2. Answers in constant time whether an id is among them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable


class Revokes:
    """A bounded, expiring set of ids, oldest first."""

    def __init__(self, maximum: int = 50_000, expires: float = 10_800.0) -> None:
        self.maximum = maximum
        self.expires = expires
        self._since: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def __contains__(self, task_id: str) -> bool:
        since = self._since.get(task_id)
        return since is not None and time.time() - since < self.expires

    def __len__(self) -> int:
        return len(self._since)

    def add(self, task_ids: Iterable[str]) -> None:
        """Remember `task_ids`, anew where they are known, and drop what is too old or too much."""
        now = time.time()
        since = self._since
        for task_id in task_ids:
            since.pop(task_id, None)
            since[task_id] = now
        horizon = now - self.expires
        while since:
            oldest = next(iter(since))
            if len(since) <= self.maximum and since[oldest] > horizon:
                break
            del since[oldest]

    def list(self) -> list[str]:
        """Return the ids, oldest first."""
        horizon = time.time() - self.expires
        return [task_id for task_id, since in self._since.items() if since > horizon]
