"""The parked messages of one queue.

1. Stores messages by number, and their due times in a heap. The due time of a recalled message stays in the heap until
   it has passed, or until most of the heap is such entries.
2. Finds messages by their keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.api.transport import Peeked

if TYPE_CHECKING:
    from framework_transports.memory.broker import Waiting


class Parked:
    """The parked messages of one queue. Callers hold the broker's lock."""

    def __init__(self) -> None:
        self._times: list[tuple[float, int]] = []
        self._messages: dict[int, tuple[float, str, Waiting]] = {}
        self._numbers: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, waiting: Waiting, until: float, key: str) -> None:
        """Park `waiting` until `until` (s since the epoch)."""
        self._messages[waiting.number] = until, key, waiting
        heapq.heappush(self._times, (until, waiting.number))
        if key:
            self._numbers.setdefault(key, []).append(waiting.number)

    def nearest(self, limit: int) -> list[Peeked]:
        """Return the `limit` messages that come due first."""
        found = heapq.nsmallest(limit, self._messages.values(), key=lambda entry: (entry[0], entry[2].number))
        return [Peeked(waiting.envelope, until) for until, _, waiting in found]

    def take(self, key: str) -> list[Waiting]:
        """Remove and return the messages parked under `key`."""
        taken = [self._remove(number) for number in list(self._numbers.get(key, ()))]
        if len(self._times) > 2 * len(self._messages) + 100:
            self._times = [(until, number) for number, (until, _, _) in self._messages.items()]
            heapq.heapify(self._times)
        return taken

    def due(self, now: float) -> Iterator[Waiting]:
        """Remove and yield due messages, in the order of their due times."""
        while (first := self.first()) is not None and first <= now:
            yield self._remove(heapq.heappop(self._times)[1])

    def first(self) -> float | None:
        """Return the next due time; None: nothing is parked."""
        while self._times:
            until, number = self._times[0]
            # A recalled message may have been parked again, with another due time.
            if number in self._messages and self._messages[number][0] == until:
                return until
            heapq.heappop(self._times)
        return None

    def _remove(self, number: int) -> Waiting:
        _, key, waiting = self._messages.pop(number)
        if key:
            numbers = self._numbers[key]
            numbers.remove(number)
            if not numbers:
                del self._numbers[key]
        return waiting
