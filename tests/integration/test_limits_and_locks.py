"""Limits that strike while a task takes and releases locks: each ends its task alone, and the worker always answers.

LIMITS=10000 in the environment sends that many tasks and prints how long the slowest answer took.
"""

from __future__ import annotations

import itertools
import os
import signal
from time import monotonic

import pytest

from framework.testing.locks import LOCKS
from support.ledger import read
from support.wait import wait_for

KINDS = [*LOCKS, "worker's log", "print", "own"]
COUNT = int(os.environ.get("LIMITS", "64"))
POOLS = {"threads": 8, "asyncio": 8, "solo": 1, "prefork": 2}


@pytest.fixture(params=POOLS)
def busy(request, sqlite_url, start_worker, client, ledger_path):
    """A worker of each pool, and a client."""
    slots = ("-P", request.param, "-c", str(POOLS[request.param]))
    worker = start_worker(*slots, app="support.rough", broker=sqlite_url, backend=sqlite_url, ledger=ledger_path)
    # One slot ends one task after another.
    return worker, client(sqlite_url, sqlite_url), COUNT if POOLS[request.param] > 2 else COUNT // 2


def test_every_task_has_its_own_end_and_the_worker_answers(busy, ledger_path, capsys):
    worker, app, count = busy
    kinds = list(itertools.islice(itertools.cycle(KINDS), count))
    sent = []
    for number, kind in enumerate(kinds):
        # Each kind meets both limits.
        limit = "soft_time_limit" if number // len(KINDS) % 2 else "time_limit"
        sent.append((app.send_task("rough.locks", (kind, f"run:{number}"), **{limit: 0.05}), limit))
    slowest = 0.0
    while not all(result.ready() for result, _ in sent[-10:]):
        began = monotonic()
        assert app.control.ping(limit=1, timeout=30)
        slowest = max(slowest, monotonic() - began)
    with capsys.disabled():
        if "LIMITS" in os.environ:
            print(f"{count} limits, slowest answer {slowest:.3f} s")
    ends = {"soft_time_limit": "SoftTimeLimitExceeded", "time_limit": "TimeLimitExceeded"}
    for result, limit in sent:
        result.get(timeout=60, propagate=False)
        assert type(result.result).__name__ == ends[limit]
    # A limit may strike before the task has written its line.
    runs = read(ledger_path)
    assert set(runs) <= {f"run:{number}" for number in range(count)}
    assert set(runs.values()) == {1}
    # No lock is left taken: what takes each of them comes to its end.
    for kind in KINDS:
        app.send_task("rough.lock", (kind,)).get(timeout=30)
    assert "has kept a lock" not in worker.output
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_task_that_keeps_the_lock_of_the_log_keeps_nobody_from_logging(
    pool, sqlite_url, start_worker, client, ledger_path
):
    worker = start_worker(
        *("-P", pool, "-c", "2"), app="support.rough", broker=sqlite_url, backend=sqlite_url, ledger=ledger_path
    )
    app = client(sqlite_url, sqlite_url)
    keeping = app.send_task("rough.keeps_the_log", time_limit=0.3)
    keeping.get(timeout=60, propagate=False)
    assert type(keeping.result).__name__ == "TimeLimitExceeded"
    assert app.control.ping(limit=1, timeout=30)
    wait_for(lambda: "the log goes on without that lock" in worker.output, 30, "the warning")
    app.send_task("rough.lock", ("worker's log",)).get(timeout=30)
    worker.wait_line("busy")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
