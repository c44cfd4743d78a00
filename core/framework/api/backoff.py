"""Back-off: how long to wait before the next attempt.

Exponential with full jitter on the upper half, so that a fleet that lost its broker does not come back in one beat.
"""

from __future__ import annotations

import random
from typing import Final

#: Seconds between two attempts to reach the broker, at the most: a worker is back soon after it.
PAUSE_MAX: Final = 2.0


class Backoff:
    """Delays in seconds: about `first`, doubling up to `maximum`."""

    def __init__(self, first: float = 0.5, maximum: float = 10.0) -> None:
        self._first = first
        self._maximum = maximum
        self.attempts = 0

    def next(self) -> float:
        """Count an attempt and return the seconds to wait before the next."""
        ceiling = min(self._maximum, self._first * 2.0 ** min(self.attempts, 16))
        self.attempts += 1
        return ceiling * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start over: the last attempt worked."""
        self.attempts = 0
