"""Back-off: how long to wait before the next attempt.

Exponential by default. Jitter on the upper half of each delay keeps the workers of a fleet from reconnecting at the
same moment.
"""

from __future__ import annotations

import random
from typing import Final

#: Most seconds between two attempts to connect to the broker, so that a worker reconnects soon after an outage.
PAUSE_MAX: Final = 2.0
#: Seconds after which a connection counts as stable: only then its loss starts the back-off anew.
STABLE: Final = 5.0


class Backoff:
    """Delays in seconds: the first is `first`, each next one is the last times `factor` plus `step`, up to `maximum`.

    `jitter` is the share of each delay that is random: with 0.5 it is between half of the delay and all of it.
    """

    def __init__(
        self, first: float = 0.5, maximum: float = 10.0, *, factor: float = 2.0, step: float = 0.0, jitter: float = 0.5
    ) -> None:
        self._first = first
        self._maximum = maximum
        self._factor = factor
        self._step = step
        self._jitter = jitter
        self._delay = first
        self.attempts = 0

    def next(self) -> float:
        """Count an attempt and return the seconds to wait before the next."""
        delay = min(self._delay, self._maximum)
        self._delay = delay * self._factor + self._step
        self.attempts += 1
        return delay * random.uniform(1.0 - self._jitter, 1.0)

    def reset(self) -> None:
        """Start again at `first`, after a successful attempt."""
        self._delay = self._first
        self.attempts = 0
