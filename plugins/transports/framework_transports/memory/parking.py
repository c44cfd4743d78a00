"""Messages that are parked for one queue.

1. Keeps them by number, and their times in a heap. What was recalled leaves its time behind there, until it is over or
   most of the heap is such.
2. Finds the numbers of those that were parked under a key.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework_transports.memory.broker import Waiting


class Parked:
    """What is parked for a queue. Used under the broker's lock."""

    def __init__(self) -> None:
        self._times: list[tuple[float, int]] = []
        self._messages: dict[int, tuple[float, str, Waiting]] = {}
        self._numbers: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, waiting: Waiting, until: float, key: str) -> None:
        """Keep `waiting` until then (s since the epoch)."""
        self._messages[waiting.number] = until, key, waiting
        heapq.heappush(self._times, (until, waiting.number))
        if key:
            self._numbers.setdefault(key, []).append(waiting.number)

    def take(self, key: str) -> list[Waiting]:
        """Take out what is parked under `key`."""
        taken = [self._remove(number) for number in list(self._numbers.get(key, ()))]
        if len(self._times) > 2 * len(self._messages) + 100:
            self._times = [(until, number) for number, (until, _, _) in self._messages.items()]
            heapq.heapify(self._times)
        return taken

    def due(self, now: float) -> Iterator[Waiting]:
        """Take out what is due, the first due first."""
        while (first := self.first()) is not None and first <= now:
            yield self._remove(heapq.heappop(self._times)[1])

    def first(self) -> float | None:
        """Return when the next one is due; None: nothing is parked."""
        while self._times:
            until, number = self._times[0]
            # One that was recalled may have been parked again, until another time.
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
