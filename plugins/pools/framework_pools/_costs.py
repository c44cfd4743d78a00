"""How long tasks take, as far as a pool has seen: decides how many jobs may wait behind each other.

1. `Costs.learn` hears every runtime; `Costs.of` says what a task of that name may cost: quick to rise, slow to fall.
2. A name never seen counts as long: nothing waits behind it, and it waits behind nothing.
3. `Costs.room` says how many jobs of the recent mix fit into a time.
"""

from __future__ import annotations

from typing import Final

#: Seconds of work that may wait in one place; a short task is never delayed by more, surprises apart.
BUDGET: Final = 0.008
#: Jobs that may wait in one place, however short they are.
DEPTH_MAX: Final = 128
#: What a task of an unknown name counts as, in seconds.
UNKNOWN: Final = 1.0
#: Least cost: a sum of costs must be above zero while there is a job.
LEAST: Final = 1e-6
#: Share of a new, shorter runtime in a cost.
_FALL: Final = 1 / 16


class Costs:
    """Expected runtimes in seconds, by task name and overall."""

    __slots__ = ("_mix", "by_name")

    def __init__(self) -> None:
        self.by_name: dict[str, float] = {}
        self._mix = UNKNOWN

    def of(self, name: str) -> float:
        """Return what a task called `name` is expected to cost."""
        return self.by_name.get(name, UNKNOWN)

    def learn(self, name: str, runtime: float) -> None:
        """Take note of a runtime."""
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

    def surprise(self, name: str, elapsed: float) -> None:
        """Take note that a task has been running for `elapsed` seconds and has not ended."""
        if elapsed > self.by_name.get(name, 0.0):
            self.by_name[name] = elapsed
        self._mix = max(self._mix, elapsed)

    def room(self, seconds: float) -> int:
        """Return how many jobs of the recent mix fit into `seconds`."""
        return min(DEPTH_MAX, int(seconds / self._mix))
