"""The pool of threads: abandoned threads, speed at one slot, interruptions that come late."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from framework.api.pool import FAILURE, SUCCESS, TERMINATED, TIMED_OUT
from framework_pools.asyncio_pool import AsyncioPool
from framework_pools.threads import ThreadsPool
from support.pool_harness import Harness
from support.wait import wait_for

#: A recipe whose jobs are coroutines.
COROUTINES = {"coroutines": True}


def test_thread_that_does_not_stop_is_replaced_and_counted(caplog):
    with Harness(ThreadsPool, 2) as pool, caplog.at_level(logging.ERROR):
        before = pool.pids()
        stuck = pool.submit(b"sleep:2", hard=0.1)
        assert pool.wait(stuck)[0].code == TIMED_OUT
        info = pool.call(pool.pool.info)
        assert info["abandoned-threads"] == 1
        assert len(info["processes"]) == 2
        assert set(info["processes"]) != set(before)
        assert "does not stop" in caplog.text
        side_by_side = pool.submit(b"sleep:0.2", b"sleep:0.2")
        wait_for(lambda: all(seq in pool.begun for seq in side_by_side), 5, "both")
        assert {outcome.code for outcome in pool.wait(side_by_side)} == {SUCCESS}


@pytest.mark.parametrize(("pool_type", "recipe"), [(ThreadsPool, {}), (AsyncioPool, {}), (AsyncioPool, COROUTINES)])
def test_the_end_of_a_job_is_not_taken_for_that_of_the_next_one(pool_type, recipe):
    with Harness(pool_type, 1, recipe) as pool:
        # The pool takes more jobs than it has slots where it knows them as short.
        pool.run(*[b"noop"] * 50, task="short")
        first, second = pool.submit(b"spin:30", b"spin:30", task="short")
        pool.wait_begun(first)

        def terminate_both():
            # The loop is busy and has not read the first outcome when the second job is terminated.
            for seq in (first, second):
                wait_for(lambda seq=seq: pool.pool.terminate(seq), 30, f"job {seq} to run")

        pool.call(terminate_both)
        assert [outcome.code for outcome in pool.wait([first, second])] == [TERMINATED, TERMINATED]


def test_abandoned_thread_runs_nothing_more(tmp_path):
    with Harness(ThreadsPool, 1, {"ledger": str(tmp_path / "ledger")}) as pool:
        (first,) = pool.run(b"where")
        pool.run(b"sleep:1.2;note:late", hard=0.1)
        outcomes = pool.run(*[b"where;sleep:0.01"] * 100)
        assert len({outcome.note for outcome in outcomes}) == 1
        assert outcomes[0].note != first.note


def test_termination_reaches_a_sleeping_thread_when_it_wakes():
    with Harness(ThreadsPool, 1) as pool:
        [seq] = pool.submit(b"sleep:1")
        pool.wait_begun(seq)
        wait_for(lambda: pool.call(pool.pool.terminate, seq, 15), 5, "the termination")
        assert pool.wait([seq])[0].code == TERMINATED
        assert pool.run(b"noop")[0].code == SUCCESS


def test_one_slot_takes_several_short_jobs_at_once():
    with Harness(ThreadsPool, 1) as pool:
        assert pool.call(pool.pool.capacity) == 1
        pool.run(*[b"noop"] * 100)
        assert pool.call(pool.pool.capacity) > 10


def test_long_jobs_are_not_queued_behind_each_other():
    with Harness(ThreadsPool, 2) as pool:
        pool.run(b"sleep:0.05", b"sleep:0.05")
        running = pool.submit(b"sleep:0.3", b"sleep:0.3")
        wait_for(lambda: all(seq in pool.begun for seq in running), 5, "both")
        assert pool.call(pool.pool.capacity) == 0


def test_a_job_that_raises_is_a_failure_and_no_more():
    with Harness(ThreadsPool, 1) as pool:
        assert [outcome.code for outcome in pool.run(b"raise", b"noop")] == [FAILURE, SUCCESS]


def test_threads_end_with_the_pool():
    before = set(threading.enumerate())
    for _ in range(10):
        with Harness(ThreadsPool, 4) as pool:
            pool.run(*[b"noop"] * 8)
    wait_for(lambda: set(threading.enumerate()) <= before, 5, "the threads to end")


def test_restart_makes_the_workload_anew():
    with Harness(ThreadsPool, 2) as pool:
        old = pool.pool.workload()
        pool.call(pool.pool.restart)
        assert pool.pool.workload() is not old
        assert pool.run(b"noop")[0].code == SUCCESS


def test_stop_waits_for_the_running_job_until_the_deadline():
    with Harness(ThreadsPool, 1) as pool:
        [seq] = pool.submit(b"sleep:0.3")
        pool.wait_begun(seq)
        pool.pool.stop(time.monotonic() + 5)
        assert pool.wait([seq])[0].code == SUCCESS
