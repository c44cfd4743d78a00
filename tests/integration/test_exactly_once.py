"""Thousands of tasks on every broker and pool: each runs exactly once, and stopping half-way changes nothing."""

from __future__ import annotations

import pytest

from support import ledger, queues
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
#: `make books` has as many for each of them.
TASKS = dict.fromkeys(POOLS, 6_000) | {"prefork": 20_000}


@pytest.mark.parametrize("pool", POOLS)
def test_each_of_many_tasks_runs_exactly_once(pool, broker_url, start_worker, client, ledger_path):
    app = client(broker_url)
    record = app.tasks["proj.record"]
    count = TASKS[pool]
    ids = list(range(count))
    half = count // 2
    app.send_many(record.si(number) for number in ids[:half])
    # One half waits when the worker comes up, the other arrives while it is busy.
    worker = start_worker("-P", pool, "-c", "2", "-l", "warning", broker=broker_url, ledger=ledger_path, ready=False)
    app.send_many(record.si(number) for number in ids[half:])

    def progress() -> str:
        return f"{count} tasks; {ledger.balance(ids, ledger_path)}; the worker said: {worker.output[-2000:]}"

    wait_for(lambda: ledger.size(ledger_path) >= count or not worker.running, 60, progress)
    assert worker.stop() == 0, worker.output
    books = ledger.balance(ids, ledger_path)
    assert books.balanced, books
    assert queues.waiting(broker_url) == 0


@pytest.mark.acceptance(21)
@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_stopped_half_way_and_started_again_loses_and_repeats_nothing(
    pool, broker_url, start_worker, client, ledger_path
):
    app = client(broker_url)
    ids = list(range(2000))
    app.send_many(app.tasks["proj.record"].si(number) for number in ids)
    first = start_worker("-P", pool, "-c", "2", broker=broker_url, ledger=ledger_path)
    wait_for(lambda: ledger.size(ledger_path) > 10, 20, "the first tasks")
    assert first.stop() == 0, first.output
    start_worker("-P", pool, "-c", "2", broker=broker_url, ledger=ledger_path)
    wait_for(lambda: ledger.size(ledger_path) >= len(ids), 30, lambda: str(ledger.balance(ids, ledger_path)))
    books = ledger.balance(ids, ledger_path)
    assert books.balanced, books
