"""Expected runtimes of tasks, from which a pool decides how many jobs may wait behind each other.

1. `Costs.learn` records every runtime; the expected cost of a task rises at once and falls slowly.
2. A task without a runtime counts as long: it waits behind no job, and no job waits behind it.
3. `Costs.jobs_within` returns how many jobs of the recent mix fit into a time.
"""

from __future__ import annotations

from typing import Final

#: Seconds of expected work that may wait in one slot: the delay of a short task, unless a task takes longer than ever.
BUDGET: Final = 0.008
#: Most jobs that may wait in one slot.
DEPTH_MAX: Final = 128
#: Expected cost of a task without a known runtime, in seconds.
UNKNOWN: Final = 1.0
#: Least cost: the sum of the costs of jobs must be above zero.
LEAST: Final = 1e-6
#: Weight of a new, shorter runtime in a cost.
_FALL: Final = 1 / 16


class Costs:
    """Expected runtimes in seconds, by task name and for the recent mix."""

    __slots__ = ("_mix", "by_name")

    def __init__(self) -> None:
        self.by_name: dict[str, float] = {}
        self._mix = UNKNOWN

    def learn(self, name: str, runtime: float) -> None:
        """Record a runtime."""
        by_name = self.by_name
        known = by_name.get(name)
        if known is None or runtime >= known:
            by_name[name] = runtime if runtime > LEAST else LEAST
        else:
            by_name[name] = known + (runtime - known) * _FALL
        mix = self._mix
        if runtime >= mix or mix == UNKNOWN:
            self._mix = runtime if runtime > LEAST else LEAST
        else:
            self._mix = mix + (runtime - mix) * _FALL

    def learn_running(self, name: str, elapsed: float) -> None:
        """Record that a task has been running for `elapsed` seconds and has not ended."""
        if elapsed > self.by_name.get(name, 0.0):
            self.by_name[name] = elapsed
        self._mix = max(self._mix, elapsed)

    def jobs_within(self, seconds: float) -> int:
        """Return how many jobs of the recent mix fit into `seconds`."""
        return min(DEPTH_MAX, int(seconds / self._mix))
