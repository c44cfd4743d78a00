"""How jobs end that did not simply succeed: the outcome that core gets for what a child has put into its outbox."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from framework.api.pool import FAILURE, SOFT_TIMED_OUT, TIMED_OUT, WORKER_LOST, Job, Outcome, Verdict
from framework_pools.prefork.child import UNKNOWN_HERE
from framework_pools.prefork.slot import Doom

as_outcome: Callable[[tuple[Any, ...]], Outcome] = partial(tuple.__new__, Outcome)


def outcome_of(record: tuple[Any, ...], job: Job, doom: Doom | None, verdict: Verdict) -> Outcome:
    """Return the outcome of `job`; `doom`: why its child is about to be killed, if it is."""
    code, runtime = record[1], record[2]
    if code == TIMED_OUT:
        return verdict(job, TIMED_OUT, f"{job.soft_limit or 0:g}", runtime)
    if code == WORKER_LOST:
        return verdict(job, WORKER_LOST, record[4], runtime)
    if code == UNKNOWN_HERE:
        text = f"the processes of the pool do not know the task {job.task}, which a restart should have brought"
        return verdict(job, WORKER_LOST, text, runtime)
    if code in (FAILURE, SOFT_TIMED_OUT) and doom is not None and doom.job is job:
        # It caught the signal that ends it, and left in its own way.
        return verdict(job, doom.code, doom.text, runtime)
    return as_outcome(record)
