"""Real workers with few descriptors: the soft limit is raised, or the pool has fewer processes and works."""

from __future__ import annotations

import resource

import psutil
import pytest

from support import ledger
from support.pool_harness import both
from support.wait import wait_for

TASKS = range(60)
REFUSED = r"The limit of open files, 64, allows \d+ processes instead of {}: the pool continues with these"


def limited(soft, hard):
    """Return the command that runs another one with these limits of open files."""
    return ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh")


@pytest.fixture
def start(start_worker, client, ledger_path):
    """Return what starts a worker with few descriptors, and gives it and its client."""

    def start(broker_url, limits, *args):
        backend_url = "rpc://" if broker_url.startswith("amqp") else broker_url
        worker = start_worker(
            *args, broker=broker_url, backend=backend_url, ledger=ledger_path, through=limited(*limits)
        )
        return worker, client(broker_url, backend_url)

    return start


def pool_of(app):
    """Return the pool's part of the only worker's statistics."""
    (stats,) = app.control.inspect(timeout=30, limit=1).stats().values()
    return stats["pool"]


def run_tasks(app, path):
    for number in TASKS:
        app.tasks["proj.record"].delay(number)
    wait_for(lambda: ledger.size(path) >= len(TASKS), 60, "all tasks")
    books = ledger.balance(TASKS, path)
    assert books.balanced, str(books)


@both
def test_a_low_hard_limit_means_fewer_processes(start, broker_url, ledger_path, start_method):
    worker, app = start(
        broker_url, (64, 64), "-c", "20", f"--pool-start-method={start_method}", "--max-tasks-per-child=10"
    )
    pool = pool_of(app)
    assert 2 <= pool["max-concurrency"] < 20
    # Processes are replaced, each with the descriptors that another one has left.
    run_tasks(app, ledger_path)
    wait_for(lambda: len(pool_of(app)["processes"]) == pool["max-concurrency"], 60, "as many processes as before")
    assert len(worker.lines(REFUSED.format(20))) == 1
    assert "Too many open files" not in worker.output
    assert worker.stop() == 0


def test_a_low_soft_limit_is_raised(start, redis_url, ledger_path):
    worker, app = start(redis_url, (100, 4096), "-c", "25")
    assert pool_of(app)["max-concurrency"] == 25
    wait_for(lambda: len(pool_of(app)["processes"]) == 25, 60, "all processes")
    soft, hard = psutil.Process(worker.pid).rlimit(resource.RLIMIT_NOFILE)
    assert 100 < soft < hard == 4096
    run_tasks(app, ledger_path)
    assert "limit of open files" not in worker.output
    assert worker.stop() == 0


@pytest.mark.parametrize("hard", [64, 4096])
def test_a_pool_that_grows_keeps_to_the_limit(start, redis_url, ledger_path, hard):
    worker, app = start(redis_url, (64, hard), "-c", "1")
    app.control.pool_grow(19)
    wait_for(lambda: pool_of(app)["max-concurrency"] > 1, 60, "a larger pool")
    run_tasks(app, ledger_path)
    assert (pool_of(app)["max-concurrency"] == 20) is (hard == 4096)
    assert len(worker.lines(REFUSED.format(20))) == (hard == 64)
    assert "Too many open files" not in worker.output
    assert worker.stop() == 0
