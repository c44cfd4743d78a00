"""Counts the tasks by outcome, for the metrics; only with a health endpoint."""

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
#: Outcomes of tasks that never ran.
_UNRUN: Final = (outcomes.REVOKED, outcomes.INVALID)
#: The most task names that are counted separately; later names are counted as `OTHERS`.
NAMES_MAX: Final = 500
OTHERS: Final = "(others)"

_SUCCESS: Final = outcomes.SUCCESS


class Counter:
    """The outcomes and the run time of one task."""

    __slots__ = ("ends", "seconds")

    def __init__(self) -> None:
        #: Number of tasks by outcome code.
        self.ends = [0] * (max(ENDS) + 1)
        #: Total run time (s).
        self.seconds = 0.0

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(self.ends) - sum(self.ends[code] for code in _UNRUN)


class Counters:
    """The counters of all tasks. The loop writes them; other threads may read them at any time."""

    def __init__(self) -> None:
        self.tasks: dict[str, Counter] = {}
        #: Numbers of tasks that have started, and that have ended.
        self.starts = 0
        self.ends = 0
        #: Number of tasks that have ended and had been redelivered.
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
