"""A task forks its process and the copy leaves the task: it ends there, and the worker goes on undisturbed."""

from __future__ import annotations

from collections import Counter

import psutil
import pytest

from support import ledger, queues
from support.wait import wait_for

#: How a copy leaves its task, and the code with which its process then ends.
ENDS = {"returns": 0, "raises": 1, "exits": 5, "killed": -15}
POOLS = ["prefork", "spawn", "threads", "solo", "asyncio", "gevent", "eventlet"]


@pytest.fixture(params=POOLS)
def start(request, start_worker, client, ledger_path):
    pool = request.param
    if pool in ("gevent", "eventlet"):
        pytest.importorskip("gevent" if pool == "gevent" else "dns", reason=f"the extra {pool} is not installed")
    args = ("-P", "prefork", "--pool-start-method", "spawn") if pool == "spawn" else ("-P", pool)

    def start(broker, slots=1):
        worker = start_worker(
            *args, "-c", str(slots), app="support.rough", broker=broker, backend=broker, ledger=ledger_path
        )
        return worker, client(broker, broker)

    return start


@pytest.mark.parametrize("name", ["rough.copies", "rough.copies_async"])
def test_a_copy_ends_where_it_leaves_its_task(start, name, redis_url, ledger_path):
    worker, app = start(redis_url)
    results = {how: app.send_task(name, (how, how)) for how in ENDS}
    assert {how: result.get(timeout=60) for how, result in results.items()} == ENDS
    entries = [f"after{number}" for number in range(40)]
    app.send_many(app.tasks["proj.record_late"].si(entry) for entry in entries)
    wait_for(lambda: ledger.size(ledger_path) >= len(ENDS) + 40, 60, lambda: f"every task: {worker.output}")
    assert len(worker.lines(rf"A copy of process \d+, forked in {name}\[")) == len(ENDS) - 1
    assert worker.running
    assert worker.stop() == 0
    assert ledger.read(ledger_path) == Counter([*ENDS, *entries])
    assert queues.waiting(redis_url) == 0


@pytest.mark.parametrize("start", sorted({*POOLS} - {"solo"}), indirect=True)
def test_a_copy_that_waits_does_not_run_its_neighbours(start, redis_url, tmp_path, ledger_path):
    worker, app = start(redis_url, slots=2)
    gates = [tmp_path / "neighbour", tmp_path / "copy"]
    app.send_task("proj.hold_late", (str(gates[0]), "neighbour"))
    wait_for(lambda: ledger.size(ledger_path) == 1, 60, "the neighbour to begin")
    copied = app.send_task("rough.copies_and_waits", (str(gates[1]), "copy"))
    wait_for(lambda: ledger.size(ledger_path) == 2, 60, "the copy to begin")
    gates[0].touch()
    entries = [f"after{number}" for number in range(40)]
    app.send_many(app.tasks["proj.record_late"].si(entry) for entry in entries)
    wait_for(lambda: ledger.size(ledger_path) >= 43, 60, lambda: f"every task: {worker.output}")
    gates[1].touch()
    assert copied.get(timeout=60) == 0
    assert worker.stop() == 0
    assert ledger.read(ledger_path) == Counter(["start:neighbour", "copy", "end:neighbour", *entries])
    assert queues.waiting(redis_url) == 0


@pytest.mark.parametrize("start", ["prefork", "spawn"], indirect=True)
def test_the_copy_of_a_process_that_was_lost_ends_too(start, redis_url, tmp_path, ledger_path):
    worker, app = start(redis_url)
    gate = tmp_path / "gate"
    lost = app.send_task("rough.dies_beside_a_copy", (str(gate), "lost"))
    lost.get(timeout=60, propagate=False)
    assert type(lost.result).__name__ == "WorkerLostError"
    gate.touch()
    wait_for(gate.read_text, 60, "the copy to leave its task")
    copy = int(gate.read_text())
    wait_for(lambda: not psutil.pid_exists(copy), 60, "the copy to end")
    entries = [f"after{number}" for number in range(40)]
    app.send_many(app.tasks["proj.record_late"].si(entry) for entry in entries)
    wait_for(lambda: ledger.size(ledger_path) >= 40, 60, lambda: f"every task: {worker.output}")
    assert worker.stop() == 0
    assert ledger.read(ledger_path) == Counter(entries)
    assert type(lost.result).__name__ == "WorkerLostError"


def test_a_copy_that_a_hook_makes_ends_too(start_worker, client, redis_url, tmp_path, ledger_path):
    (tmp_path / "hooked.py").write_text(
        "import os\n"
        "from framework.api.hook import hookimpl\n"
        "from support.proj import app\n"
        "class Forks:\n"
        "    @hookimpl\n"
        "    def worker_process_init(self, app, hostname):\n"
        "        os.fork()\n"
        "    @hookimpl\n"
        "    def task_prerun(self, task_id):\n"
        "        os.fork()\n"
        "    @hookimpl\n"
        "    def task_postrun(self, task_id):\n"
        "        os.fork()\n"
        "app.register_hooks(Forks())\n"
    )
    worker = start_worker("-c", "2", app="hooked", app_dir=tmp_path, broker=redis_url, ledger=ledger_path)
    app = client(redis_url)
    entries = [f"task{number}" for number in range(20)]
    app.send_many(app.tasks["proj.record_late"].si(entry) for entry in entries)
    # Two processes, and two hooks around each task.
    worker.wait_line(r"A copy of process \d+, forked in ", count=2 + 2 * 20, timeout=60)
    assert worker.stop() == 0
    assert ledger.read(ledger_path) == Counter(entries)
    assert queues.waiting(redis_url) == 0
