"""Ten restarts by remote control, with tasks running meanwhile, leave no zombie, no descriptor and no thread behind."""

from __future__ import annotations

from collections import Counter

import psutil
import pytest

from support import ledger, poolfleet
from support.wait import wait_for

ROUNDS = 10
CONF = {"worker_pool_restarts": True, "worker_prefetch_multiplier": 4}


def census(pid: int) -> Counter[str]:
    """Count what the worker and its descendants hold."""
    counted: Counter[str] = Counter()
    for process in (main := psutil.Process(pid), *main.children(recursive=True)):
        try:
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    counted["zombies"] += 1
                    continue
                counted["processes"] += 1
                counted["fds"] += process.num_fds()
                counted["threads"] += process.num_threads()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            counted["in flux"] += 1
    return counted


def work_through(fleet: poolfleet.PoolFleet, number: int) -> None:
    """Keep every slot busy through a restart, and have it work afterwards."""
    before = fleet.pids()
    with fleet.holding():
        assert fleet.tell("pool_restart", reload=number % 2 == 0) == {"ok": "reload started"}
    entries = [f"{number}.{job}" for job in range(20)]
    for entry in entries:
        fleet.app.tasks["proj.record"].delay(entry)
    if fleet.pool == "prefork":
        wait_for(lambda: len(fleet.pids()) == fleet.slots and not before & fleet.pids(), 20, "other processes")
    wait_for(lambda: set(entries) <= set(ledger.read(fleet.book)), 20, "the tasks to run")


@pytest.mark.parametrize("pool", poolfleet.POOLS)
def test_nothing_is_left_after_ten_restarts(pool, request, tmp_path):
    with poolfleet.running(request, "redis", pool, tmp_path, **CONF) as fleet:
        # What is opened once, at the first use, is there now.
        for number in range(2):
            work_through(fleet, -1 - number)
        before = wait_for(lambda: not (seen := census(fleet.worker.pid))["in flux"] and seen, 30, "a quiet moment")
        for number in range(ROUNDS):
            work_through(fleet, number)
        after: Counter[str] = Counter()

        def settled() -> bool:
            nonlocal after
            after = census(fleet.worker.pid)
            return not after["zombies"] and all(after[kind] <= before[kind] for kind in after)

        wait_for(settled, 30, lambda: f"{dict(before)} to be all that is left, and not {dict(after)}")
        books = ledger.balance([f"{n}.{job}" for n in range(ROUNDS) for job in range(20)], fleet.book)
        assert not books.lost
        assert not books.duplicated
        assert fleet.worker.stop() == 0
