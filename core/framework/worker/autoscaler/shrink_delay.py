"""Delays shrinking by the keep-alive time; growing is not delayed."""

from __future__ import annotations


class ShrinkDelay:
    """Delays the shrinking of a pool. Pure: the caller passes the time."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: time for which every wanted size must be smaller than the size before it shrinks."""
        self.seconds = seconds
        self._since: float | None = None
        self._largest = 0

    def allow(self, now: float, size: int, wanted: int) -> int:
        """Return the size for the time `now` (s): `wanted`, or `size` while shrinking is delayed."""
        if wanted >= size:
            self._since = None
            return wanted
        if self._since is None:
            self._since = now
            self._largest = wanted
        self._largest = max(self._largest, wanted)
        if now - self._since < self.seconds:
            return size
        self._since = None
        return self._largest
