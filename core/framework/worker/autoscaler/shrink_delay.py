"""Keep-alive: lets a size grow at once, and shrink only when it has been too large for a while."""

from __future__ import annotations


class ShrinkDelay:
    """What an autoscaler wants, made steady. It knows no clock: whoever asks says what time it is."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: for so long every wish must have been smaller than the size before it shrinks."""
        self.seconds = seconds
        self._since: float | None = None
        self._largest = 0

    def allow(self, now: float, size: int, wanted: int) -> int:
        """Return the size to have at `now` (seconds), when it is `size` and `wanted` would do."""
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
