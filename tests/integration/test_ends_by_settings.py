"""What follows each end of a task by Celery's settings, which are names for cells of the table of ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from support import celeryends, ledger, queues
from support.ended import DLQ, letters
from support.wait import wait_for

#: By Celery's settings, or ours for all tasks: the ends after which a task with late ack starts again, and the letters.
NAMED: list[tuple[dict[str, Any], set[str], set[str]]] = [
    ({}, set(), set()),
    (
        {"task_acks_on_failure_or_timeout": False},
        {"hard_timeout"},
        {"failure failed", "soft_timeout timed-out", "hard_timeout max-deliveries"},
    ),
    ({"task_acks_on_failure": False}, set(), {"failure failed", "soft_timeout timed-out"}),
    ({"task_acks_on_timeout": False}, {"hard_timeout"}, {"hard_timeout max-deliveries"}),
    (
        {"task_acks_on_failure_or_timeout": False, "task_acks_on_failure": True},
        {"hard_timeout"},
        {"hard_timeout max-deliveries"},
    ),
    ({"task_reject_on_worker_lost": True}, {"worker_lost"}, {"worker_lost max-deliveries"}),
    ({"task_retry_on_worker_lost": True}, {"worker_lost", "early.worker_lost"}, set()),
    (
        {"task_reject_on_worker_lost": True, "task_retry_on_worker_lost": True},
        {"worker_lost", "early.worker_lost"},
        set(),
    ),
    (
        {"task_acks_on_failure_or_timeout": False, "task_ends": {"failure": "retry", "hard_timeout": "ack"}},
        {"failure", "early.failure"},
        {"soft_timeout timed-out"},
    ),
]


@pytest.mark.parametrize(("conf", "again", "buried"), NAMED, ids=[" ".join(conf) or "none" for conf, _, _ in NAMED])
def test_celerys_settings(conf, again, buried, redis_url, client, start_worker, ledger_path):
    worker = start_worker(
        *("-P", "prefork", "-c", "4"),
        app="support.celeryends",
        broker=redis_url,
        backend=redis_url,
        ledger=ledger_path,
        conf=conf,
    )
    app = client(redis_url, redis_url)
    names = [f"{kind}{end}" for kind in ("", "early.") for end in celeryends.ENDS]
    results = {name: app.send_task(f"ended.{name}") for name in names}
    starts = Counter([*names, *again])
    wait_for(
        lambda: ledger.read(ledger_path) == starts and queues.waiting(redis_url, DLQ) == len(buried),
        60,
        lambda: f"{starts - ledger.read(ledger_path)} {letters(redis_url)} {worker.output[-3000:]}",
    )
    wait_for(lambda: {each.state for each in results.values()} == {"FAILURE"}, 20, lambda: worker.output[-3000:])
    assert worker.stop() == 0
    assert (ledger.read(ledger_path), letters(redis_url)) == (starts, Counter(buried))
