"""What every pool promises: the same tests over prefork, threads, solo, and asyncio with and without coroutines.

The green pools need a patched interpreter: `test_green_pools.py` runs this file in one, and TEST_GREEN_POOL says for
which of them.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from framework._plugins import loader
from framework.api.pool import FAILURE, SUCCESS, TERMINATED, TIMED_OUT
from framework_pools.asyncio_pool import AsyncioPool
from framework_pools.prefork import PreforkPool
from framework_pools.solo import SoloPool
from framework_pools.threads import ThreadsPool
from support import ledger
from support.pool_harness import Harness
from support.wait import wait_for

TESTS = str(Path(__file__).resolve().parents[1])
GREEN = os.environ.get("TEST_GREEN_POOL")
POOLS = {
    "prefork": PreforkPool,
    "threads": ThreadsPool,
    "solo": SoloPool,
    "asyncio": AsyncioPool,
    "asyncio-beside": AsyncioPool,
}
if GREEN is not None:
    POOLS = {GREEN: loader.load("pool", GREEN)}


def slots(harness):
    """Return how many slots have come up; those of some pools are in one thread."""
    if harness.pool.traits.green or harness.pool.traits.async_tasks:
        return harness.call(harness.pool.info)["max-concurrency"]
    return len(harness.pids())


@pytest.fixture(params=list(POOLS))
def make(request, tmp_path):
    made = []

    def make(concurrency=2, **context):
        pool = POOLS[request.param]
        recipe = {"path": [TESTS], "ledger": str(tmp_path / "ledger"), "coroutines": request.param == "asyncio"}
        harness = Harness(pool, 1 if pool is SoloPool else concurrency, recipe, **context)
        made.append(harness)
        return harness.start()

    yield make
    for harness in made:
        harness.stop()
        harness.check()


def test_every_id_exactly_once(make, tmp_path):
    pool = make()
    ids = range(20_000)
    outcomes = pool.run(*[b"note:%d" % number for number in ids], timeout=60)
    assert {outcome.code for outcome in outcomes} == {SUCCESS}
    books = ledger.balance(ids, tmp_path / "ledger")
    assert books.balanced, str(books)


def test_random_mix_loses_nothing(make, tmp_path):
    pool = make()
    rng = random.Random(7)
    payloads = []
    for number in range(1_500):
        kind = rng.random()
        tail = b""
        if kind < 0.02:
            tail = b";sleep:0.03"  # long for a task of this name: what waits behind it must be recalled
        elif kind < 0.03:
            tail = b";raise"
        elif kind < 0.3:
            tail = b";sleep:0.0005"
        payloads.append(b"note:%d%s" % (number, tail))
    outcomes = pool.run(*payloads, timeout=60)
    books = ledger.balance(range(1_500), tmp_path / "ledger")
    assert books.balanced, str(books)
    assert sum(outcome.code == FAILURE for outcome in outcomes) == sum(b"raise" in payload for payload in payloads)


def test_large_payloads_and_outcomes(make):
    pool = make()
    sizes = [10, 70_000, 3_000_000, 500]
    outcomes = pool.run(*[b"big:%d;noop;noop:" % size + b"y" * size for size in sizes], timeout=30)
    assert [len(outcome.document) for outcome in outcomes] == sizes


def test_hard_limit_ends_only_its_job(make):
    pool = make()
    stuck = pool.submit(b"spin:30", hard=0.2)
    assert pool.wait(stuck)[0].code == TIMED_OUT
    assert pool.wait(stuck)[0].note == "0.2"
    assert pool.run(b"noop")[0].code == SUCCESS


@pytest.mark.acceptance(104)
def test_soft_limit_can_be_caught(make):
    pool = make()
    [outcome] = pool.run(b"soft:30", soft=0.2)
    assert (outcome.code, outcome.note) == (SUCCESS, "cleaned up")


def test_soft_then_hard(make):
    pool = make()
    [outcome] = pool.run(b"soft:30;spin:30", soft=0.1, hard=0.5)
    assert outcome.code == TIMED_OUT
    assert 0.5 <= outcome.runtime < 5


def test_job_below_its_limits_is_left_alone(make):
    pool = make()
    outcomes = pool.run(*[b"sleep:0.01"] * 20, soft=5, hard=6)
    assert {outcome.code for outcome in outcomes} == {SUCCESS}


def test_soft_limits_never_hit_the_next_job(make):
    """Limits that expire just when jobs end: each job ends once, and nothing of the pool breaks."""
    pool = make()
    outcomes = pool.run(*[b"spin:0.004"] * 200, soft=0.004, timeout=30)
    assert {outcome.code for outcome in outcomes} <= {SUCCESS, FAILURE, TIMED_OUT}
    assert {outcome.code for outcome in pool.run(*[b"spin:0.002"] * 50)} == {SUCCESS}


def test_terminate_hits_only_its_job(make):
    pool = make()
    [first] = pool.submit(b"spin:30")
    pool.wait_begun(first)
    others = pool.submit(*[b"noop"] * 5)
    wait_for(lambda: pool.call(pool.pool.terminate, first, signal.SIGTERM), 5, "the termination")
    assert pool.wait([first])[0].code == TERMINATED
    assert {outcome.code for outcome in pool.wait(others)} == {SUCCESS}
    assert not pool.call(pool.pool.terminate, first, signal.SIGTERM)


def test_terminate_of_what_does_not_run(make):
    pool = make()
    assert not pool.call(pool.pool.terminate, 12345, signal.SIGTERM)


def test_quiesce_returns_what_has_not_begun(make, tmp_path):
    pool = make()
    pool.run(*[b"noop"] * 50, task="short")  # known as short: many may wait behind each other
    seqs = pool.submit(*[b"sleep:0.3;note:%d" % number for number in range(40)], task="short")
    pool.wait_begun(seqs[0])
    taken = pool.quiesce()
    kept = [seq for seq in seqs if seq in pool.begun or seq not in taken]
    kept = [seq for seq in kept if seq not in [job.seq for job in pool._queue]]
    pool.wait(kept)
    assert not set(taken) & set(pool.ended)
    assert ledger.size(tmp_path / "ledger") == len(kept)
    assert pool.quiesce() == []


def test_stop_is_idempotent(make):
    pool = make()
    pool.run(b"noop")
    pool.pool.stop(time.monotonic() + 5)
    pool.pool.stop(time.monotonic() + 5)


@pytest.mark.parametrize("name", list(POOLS))
def test_stop_before_start(name):
    harness = Harness(POOLS[name], 1, {"path": [TESTS]})
    harness.pool.stop(time.monotonic())
    harness.loop.close()


def test_kill_terminates_what_runs(make):
    pool = make()
    [seq] = pool.submit(b"spin:30")
    pool.wait_begun(seq)
    pool.call(pool.pool.kill)
    assert pool.wait([seq])[0].code == TERMINATED


def test_what_is_killed_as_it_begins_has_an_end(make):
    pool = make()
    pool.run(b"noop")
    [seq] = pool.submit(b"spin:30")
    # In the same turn of the loop: the pool may have said that the job began, and no thread have got as far as that.
    pool.call(pool.pool.kill)
    if seq in pool.begun:
        assert pool.wait([seq])[0].code == TERMINATED


def test_info_has_every_key(make):
    pool = make()
    pool.run(b"noop")
    info = pool.call(pool.pool.info)
    for key in ("implementation", "max-concurrency", "processes", "max-tasks-per-child", "timeouts", "writes"):
        assert key in info
    assert "put-guarded-by-semaphore" in info
    assert info["timeouts"] == [0, 0]
    wait_for(lambda: slots(pool) == info["max-concurrency"], 10, "every slot to have come up")


def alive(ids):
    """Return whether each of `ids` is a process, or a thread of this one, that lives."""
    return all(psutil.pid_exists(each) or Path(f"/proc/self/task/{each}").exists() for each in ids)


@pytest.mark.acceptance(201, 202)
def test_info_names_what_lives(make):
    pool = make()
    pool.run(*[b"sleep:0.01"] * 4)
    info = pool.call(pool.pool.info)
    assert info["processes"]
    assert len(set(info["processes"])) == len(info["processes"])
    assert alive(info["processes"])


@pytest.mark.acceptance(203)
def test_info_tells_the_workers_own_limits(make):
    pool = make(hard_limit=7.0)
    assert pool.call(pool.pool.info)["timeouts"] == [0, 7.0]
    pool = make(soft_limit=1.5, hard_limit=3)
    assert pool.call(pool.pool.info)["timeouts"] == [1.5, 3]


@pytest.mark.acceptance(204)
def test_info_tells_how_jobs_were_spread(make):
    pool = make()
    assert pool.call(pool.pool.info)["writes"]["total"] == 0
    pool.run(*[b"noop"] * 40)
    writes = pool.call(pool.pool.info)["writes"]
    counts = [int(count) for count in writes["raw"].split(", ")]
    assert writes["total"] == sum(counts) == 40
    shares = [float(share.rstrip("%")) for share in writes["all"].split(", ")]
    assert shares == [pytest.approx(count / 40 * 100, abs=0.01) for count in counts]
    assert writes["avg"] == f"{1 / len(counts):.2%}"


def test_grow_and_shrink(make):
    pool = make(2)
    if not pool.pool.traits.resize:
        with pytest.raises(NotImplementedError):
            pool.call(pool.pool.grow, 1)
        return
    pool.call(pool.pool.grow, 2)
    wait_for(lambda: slots(pool) == 4, 10, "four slots")
    four = pool.submit(*[b"sleep:0.5"] * 4)
    wait_for(lambda: all(seq in pool.begun for seq in four), 5, "four jobs side by side")
    pool.call(pool.pool.shrink, 10)
    pool.wait(four)
    wait_for(lambda: slots(pool) == 1, 10, "one slot")
    assert pool.run(b"noop")[0].code == SUCCESS


@pytest.mark.acceptance(109)
def test_goes_on_after_a_job_that_swallows_everything(make):
    pool = make(1)
    stubborn = pool.submit(b"stubborn:1.5", hard=0.1)
    assert pool.wait(stubborn)[0].code == TIMED_OUT
    assert pool.run(b"noop")[0].code == SUCCESS
