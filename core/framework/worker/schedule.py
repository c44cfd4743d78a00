"""Schedule: items held in memory until their time, such as requests with an `eta`.

1. Keeps the items in one heap, with one timer of the loop for the earliest.
2. Passes due items to `release`. Times are wall-clock times: setting the clock moves them.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from framework.api.loop import Loop, Timer

T = TypeVar("T")

#: The longest timer (s): within this time the schedule notices a wall clock that was set.
_TIMER_MAX: Final = 60.0


class Schedule(Generic[T]):
    """A heap of items by time; `release` is called with due items, earliest first."""

    def __init__(self, loop: Loop, release: Callable[[list[T]], object]) -> None:
        self._loop = loop
        self._release = release
        self._heap: list[tuple[float, int, T]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[tuple[float, T]]:
        """Yield ``(time, item)``, in no particular order."""
        return ((when, item) for when, _, item in self._heap)

    def hold(self, when: float, item: T) -> None:
        """Keep `item` until `when` (seconds since the epoch)."""
        heapq.heappush(self._heap, (when, next(self._order), item))
        if self._heap[0][0] == when:
            self._arm()

    def discard(self, unwanted: Callable[[T], bool]) -> None:
        """Forget the items that are `unwanted`."""
        kept = [entry for entry in self._heap if not unwanted(entry[2])]
        if len(kept) != len(self._heap):
            heapq.heapify(kept)
            self._heap = kept
            self._arm()

    def clear(self) -> list[T]:
        """Forget and return all items."""
        items = [item for _, _, item in self._heap]
        self._heap.clear()
        self._arm()
        return items

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            delay = max(0.0, self._heap[0][0] - time.time())
            self._timer = self._loop.call_later(min(delay, _TIMER_MAX), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = time.time()
        due: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        self._arm()
        if due:
            self._release(due)
