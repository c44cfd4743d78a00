"""Counts what becomes of tasks, for the metrics. There is one only where there is a health endpoint."""

from __future__ import annotations

from typing import Final

from framework.api import pool as outcomes
from framework.client.after_end import Action
from framework.worker.task_request import TaskRequest

#: Words for how a task ended, by outcome code.
ENDS: Final = {
    outcomes.SUCCESS: "succeeded",
    outcomes.FAILURE: "failed",
    outcomes.RETRY: "retried",
    outcomes.IGNORED: "ignored",
    outcomes.REJECTED: "rejected",
    outcomes.REQUEUED: "requeued",
    outcomes.REVOKED: "revoked",
    outcomes.INVALID: "invalid",
    outcomes.TIMED_OUT: "timed_out",
    outcomes.WORKER_LOST: "worker_lost",
    outcomes.TERMINATED: "terminated",
    outcomes.SOFT_TIMED_OUT: "soft_timed_out",
}
#: Ends of what never ran.
_UNRUN: Final = (outcomes.REVOKED, outcomes.INVALID)
#: So many tasks are counted by name; those that come later, together.
NAMES_MAX: Final = 500
OTHERS: Final = "(others)"

_SUCCESS: Final = outcomes.SUCCESS


class Counter:
    """What became of the runs of one task."""

    __slots__ = ("ends", "seconds")

    def __init__(self) -> None:
        #: By outcome code.
        self.ends = [0] * (max(ENDS) + 1)
        #: Run time in all.
        self.seconds = 0.0

    @property
    def runs(self) -> int:
        """How many there were."""
        return sum(self.ends) - sum(self.ends[code] for code in _UNRUN)


class Counters:
    """Written in the loop. Other threads may read it at any time: they find counts that are a moment old."""

    def __init__(self) -> None:
        self.tasks: dict[str, Counter] = {}
        #: Tasks that have begun, and that have ended.
        self.starts = 0
        self.ends = 0
        #: Tasks that have ended and had been handed out before.
        self.redelivered = 0

    def finished(self, request: TaskRequest, code: int, took: float, action: Action) -> None:
        """Count that `request` ended with `code` after `took` seconds, and `action` follows."""
        self.ends += 1
        if request.delivery.deliveries:
            self.redelivered += 1
        count = self.tasks.get(request.name) or self._new(request.name)
        if code != _SUCCESS:
            if action is Action.REQUEUE:
                code = outcomes.REQUEUED
            elif action is Action.RETRY:
                code = outcomes.RETRY
        count.ends[code] += 1
        count.seconds += took

    def discarded(self, request: TaskRequest) -> None:
        """Count that `request` was revoked, or had expired, and did not run."""
        self.ends += 1
        count = self.tasks.get(request.name) or self._new(request.name)
        count.ends[outcomes.REVOKED] += 1

    def _new(self, name: str) -> Counter:
        return self.tasks.setdefault(name if len(self.tasks) < NAMES_MAX else OTHERS, Counter())
