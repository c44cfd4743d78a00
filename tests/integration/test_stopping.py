"""Stopping workers by signal (acceptance B): nothing that runs is cut off, nothing that waits is lost."""

from __future__ import annotations

import signal

import pytest

from support import ledger, queues
from support.processes import members
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]


def wait_started(path, count=1):
    wait_for(lambda: started(path) >= count, 20, lambda: f"{count} running tasks, the ledger says {ledger.lines(path)}")


def started(path):
    return sum(line.startswith("start:") for line in ledger.lines(path))


@pytest.mark.acceptance(14)
@pytest.mark.parametrize("pool", POOLS)
def test_term_lets_the_running_task_finish(pool, broker_url, backend_url, start_worker, client, ledger_path):
    app = client(broker_url, backend_url)
    worker = start_worker("-P", pool, "-c", "2", broker=broker_url, backend=backend_url, ledger=ledger_path)
    result = app.tasks["proj.sleeptask"].delay(1, "x")
    wait_started(ledger_path)
    worker.signal(signal.SIGTERM)
    assert result.get(timeout=20) == 1
    assert worker.wait() == 0
    assert "Warm shutdown (MainProcess)" in worker.output
    assert not members(worker.pid)


@pytest.mark.acceptance(15)
@pytest.mark.parametrize("pool", POOLS)
def test_what_had_not_started_goes_to_another_worker(pool, broker_url, start_worker, client, ledger_path):
    app = client(broker_url)
    ids = list(range(10))
    slots = 1 if pool == "solo" else 2
    worker = start_worker("-P", pool, "-c", str(slots), broker=broker_url, ledger=ledger_path)
    for number in ids:
        app.tasks["proj.sleeptask"].apply_async((0.5, number), ignore_result=True)
    wait_started(ledger_path, slots)
    assert worker.stop() == 0, worker.output
    ran = started(ledger_path)
    assert ledger.size(ledger_path) == 2 * ran, "every task that had started has ended"
    assert queues.waiting(broker_url) == len(ids) - ran > 0

    start_worker("-P", "threads", "-c", "10", broker=broker_url, ledger=ledger_path)
    wait_for(lambda: ledger.size(ledger_path) >= 2 * len(ids), 20, lambda: str(ledger.lines(ledger_path)))
    steps = [f"{step}:{number}" for number in ids for step in ("start", "end")]
    assert ledger.balance(steps, ledger_path).balanced


@pytest.mark.acceptance(16)
@pytest.mark.parametrize("pool", POOLS)
def test_a_second_term_changes_nothing(pool, redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker("-P", pool, "-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path)
    result = app.tasks["proj.sleeptask"].delay(1, "x")
    wait_started(ledger_path)
    worker.signal(signal.SIGTERM)
    worker.wait_line("Warm shutdown")
    worker.signal(signal.SIGTERM)
    assert result.get(timeout=20) == 1
    assert worker.wait() == 0


@pytest.mark.acceptance(27, 28)
@pytest.mark.parametrize("pool", POOLS)
def test_quit_stops_at_once_and_gives_late_acked_tasks_back(
    pool, broker_url, backend_url, start_worker, client, ledger_path
):
    app = client(broker_url, backend_url)
    # On solo the early one would keep the late one from starting.
    names = ["late"] if pool == "solo" else ["early", "late"]
    worker = start_worker("-P", pool, "-c", "2", broker=broker_url, backend=backend_url, ledger=ledger_path)
    late = app.tasks["proj.sleep_late"].delay(60, "late")
    if "early" in names:
        early = app.tasks["proj.sleeptask"].delay(60, "early")
    wait_started(ledger_path, len(names))
    # Far less than the tasks would take: it does not wait for them.
    worker.stop(signal.SIGQUIT, timeout=10)
    assert "Cold shutdown (MainProcess)" in worker.output
    assert "Unrecoverable error" not in worker.output
    assert not members(worker.pid)
    assert late.state != "SUCCESS"
    if "early" in names:
        assert early.state != "SUCCESS"
    assert queues.waiting(broker_url) == 1

    start_worker("-P", "threads", "-c", "2", broker=broker_url, backend=backend_url, ledger=ledger_path)
    wait_for(lambda: ledger.read(ledger_path)["start:late"] == 2, 20, "the late task to run again")
    assert ledger.read(ledger_path)["start:early"] == len(names) - 1


@pytest.mark.acceptance(17)
def test_kill_loses_the_task_that_was_acknowledged_early_and_runs(redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker("-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path)
    result = app.tasks["proj.sleeptask"].delay(60, "x")
    wait_started(ledger_path)
    active = app.control.inspect([worker.node], timeout=10).active()
    assert [task["acknowledged"] for task in active[worker.node]] == [True]
    worker.kill()
    assert result.state in ("PENDING", "STARTED")
    assert queues.waiting(redis_url) == 0
    # Another worker has nothing of it: neither now nor when what was on loan comes back.
    other = start_worker("-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path)
    assert app.tasks["proj.add"].delay(1, 1).get(timeout=30) == 2
    assert other.running
    assert started(ledger_path) == 1


@pytest.mark.acceptance(29)
@pytest.mark.parametrize("pool", POOLS)
def test_ctrl_c_twice_is_warm_then_cold(pool, redis_url, start_worker, client, ledger_path):
    app = client(redis_url)
    worker = start_worker("-P", pool, "-c", "1", broker=redis_url, ledger=ledger_path)
    app.tasks["proj.sleeptask"].apply_async((60, "x"), ignore_result=True)
    wait_started(ledger_path)
    worker.signal(signal.SIGINT)
    worker.wait_line("Warm shutdown")
    assert worker.running
    assert worker.stop(signal.SIGINT, timeout=10) == 1
    assert not members(worker.pid)


@pytest.mark.acceptance(29)
def test_ctrl_c_once_finishes_the_task_and_exits_with_1(redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker("-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path)
    result = app.tasks["proj.sleeptask"].delay(1, "x")
    wait_started(ledger_path)
    worker.signal(signal.SIGINT)
    assert result.get(timeout=20) == 1
    assert worker.wait() == 1


@pytest.mark.acceptance(33)
def test_ctrl_c_in_a_terminal_reaches_the_children_and_they_finish(redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker("-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path)
    result = app.tasks["proj.sleeptask"].delay(1, "x")
    wait_started(ledger_path)
    # A terminal sends the signal to every process of the group.
    for process in members(worker.pid):
        process.send_signal(signal.SIGINT)
    assert result.get(timeout=20) == 1
    assert worker.wait() == 1


@pytest.mark.parametrize("name", ["proj.hold_early", "proj.hold_late"])
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_term_to_every_process_is_for_the_main_one(
    start_method, name, redis_url, start_worker, client, tmp_path, ledger_path
):
    app = client(redis_url)
    worker = start_worker("-c", "2", "--pool-start-method", start_method, broker=redis_url, ledger=ledger_path)
    gate = tmp_path / "gate"
    for entry in ("first", "second"):
        app.send_task(name, (str(gate), entry))
    wait_started(ledger_path, 2)
    processes = members(worker.pid)
    # By hand, at the processes of the pool alone; then as a service manager does that signals the whole group.
    for process in processes:
        if process.pid != worker.pid:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    worker.wait_line("Warm shutdown")
    gate.touch()
    assert worker.wait() == 0
    assert "exited with" not in worker.output
    assert sorted(ledger.lines(ledger_path)) == ["end:first", "end:second", "start:first", "start:second"]
    assert queues.waiting(redis_url) == 0
    assert not members(worker.pid)
