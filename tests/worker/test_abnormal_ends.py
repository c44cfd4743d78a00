"""Outcomes of tasks that the pool has ended: the exception that each stands for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from framework import App
from framework.api import pool as outcomes
from framework.api.pool import Job, Outcome
from framework.worker.settle.abnormal_ends import AbnormalEnds
from framework_pools.prefork.exit_status import outcome_of

PAYLOAD = ({"task": "t", "id": "1"}, {}, "application/json", "utf-8", b"[[], {}, {}]")
JOB = Job(1, PAYLOAD, "t", "1", 0.3, None)


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (outcomes.SOFT_TIMED_OUT, "0.3", "SoftTimeLimitExceeded()"),
        (outcomes.TIMED_OUT, "5", "TimeLimitExceeded(5)"),
        (outcomes.WORKER_LOST, "signal 9", "WorkerLostError('signal 9')"),
    ],
)
def test_each_end_has_its_exception(code: int, text: str, error: str) -> None:
    app = App("ends")
    settle: Any = SimpleNamespace(running={}, terminated=set(), hostname="here", afterwards=None)
    outcome = AbnormalEnds(settle, app, app.conf.settings).outcome_for(JOB, code, text, 0.1)
    assert (outcome.code, outcome.note) == (code, error)


def test_a_soft_limit_outside_the_tasks_code_is_no_hard_one() -> None:
    """A child of prefork has no limits at hand: it reports that one has struck, and its parent says which."""

    def outcome_for(job: Job, code: int, text: str, runtime: float) -> Outcome:
        return Outcome(job.seq, code, runtime, None, text)

    record = (1, outcomes.TIMED_OUT, 0.4, None, "", "")
    outcome = outcome_of(record, JOB, None, outcome_for)
    assert (outcome.code, outcome.note) == (outcomes.SOFT_TIMED_OUT, "0.3")
