"""What only green pools promise; run by `test_green_pools.py` in a patched interpreter."""

from __future__ import annotations

import os
import resource
import socket
import time

import pytest

from framework._boot import loader
from framework._boot.loop import EventLoop
from framework._boot.selector import GreenPoll
from framework.api.pool import SUCCESS, TERMINATED, TIMED_OUT
from support.pool_harness import Harness
from support.wait import wait_for

POOL = loader.load("pool", os.environ["TEST_GREEN_POOL"])


def test_as_many_jobs_run_as_there_are_slots_and_no_more():
    with Harness(POOL, 100) as pool:
        first = pool.submit(*[b"sleep:0.5"] * 150)
        wait_for(lambda: len(pool.begun) == 100, 30, "a hundred jobs to begin")
        assert not pool.ended
        assert pool.call(pool.pool.info)["greenlets"] == 100
        assert {outcome.code for outcome in pool.wait(first)} == {SUCCESS}


@pytest.mark.acceptance(103)
def test_a_hard_limit_cannot_be_caught():
    """A job that swallows the exception and ends well has been over its limit all the same."""
    with Harness(POOL, 2) as pool:
        [outcome] = pool.run(b"swallow:60", hard=0.2)
        assert (outcome.code, outcome.note) == (TIMED_OUT, "0.2")


def test_termination_reaches_a_sleeping_job_at_once():
    with Harness(POOL, 1) as pool:
        [seq] = pool.submit(b"sleep:3600")
        pool.wait_begun(seq)
        wait_for(lambda: pool.call(pool.pool.terminate, seq, 15), 5, "the termination")
        assert pool.wait([seq])[0].code == TERMINATED
        assert pool.call(pool.pool.info)["abandoned-greenlets"] == 0


def test_a_job_that_does_not_end_is_counted_and_its_slot_goes_to_another():
    with Harness(POOL, 1) as pool:
        stuck = pool.submit(b"stubborn:5", hard=0.1)
        assert pool.wait(stuck)[0].code == TIMED_OUT
        assert pool.call(pool.pool.info)["abandoned-greenlets"] == 1
        assert pool.run(b"noop")[0].code == SUCCESS


def test_an_interruption_that_comes_too_late_strikes_nothing(monkeypatch):
    """The job ends between the request to interrupt it and the hub's turn."""
    with Harness(POOL, 1) as pool:
        asked = []
        in_hub = pool.pool.in_hub

        def count(function, *args):
            asked.append(function)
            return in_hub(function, *args)

        monkeypatch.setattr(pool.pool, "in_hub", count)
        workload = pool.pool.workload()
        run = workload.run

        def run_and_ask(job):
            assert pool.pool.terminate(job.seq, 15)
            return run(job)

        monkeypatch.setattr(workload, "run", run_and_ask)
        assert {outcome.code for outcome in pool.run(*[b"noop"] * 20)} == {SUCCESS}
        assert len(asked) == 20
        monkeypatch.setattr(workload, "run", run)
        assert {outcome.code for outcome in pool.run(*[b"sleep:0.01"] * 5)} == {SUCCESS}
        assert len(asked) == 20


def test_the_next_job_is_reported_when_its_predecessor_is_left_to_itself():
    with Harness(POOL, 1) as pool:
        pool.run(*[b"noop"] * 50, task="short")
        stuck = pool.submit(b"stubborn:5", hard=0.1, task="short")
        following = pool.submit(b"sleep:3600", task="short")
        assert pool.wait(stuck)[0].code == TIMED_OUT
        pool.wait_begun(following[0])
        assert pool.call(pool.pool.terminate, following[0], 15)


def test_what_waits_does_not_begin_after_a_kill():
    with Harness(POOL, 1) as pool:
        pool.run(*[b"noop"] * 50, task="short")
        seqs = pool.submit(*[b"sleep:30"] * 20, task="short")
        pool.wait_begun(seqs[0])
        pool.call(pool.pool.kill)
        assert pool.wait(seqs[:1])[0].code == TERMINATED
        assert list(pool.begun)[50:] == seqs[:1]


def test_stop_waits_for_the_running_job_until_the_deadline():
    with Harness(POOL, 1) as pool:
        [seq] = pool.submit(b"sleep:0.3")
        pool.wait_begun(seq)
        pool.pool.stop(time.monotonic() + 5)
        assert pool.wait([seq])[0].code == SUCCESS


def test_the_loop_watches_descriptors_beyond_1024():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    assert wanted > 2048
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    loop = EventLoop()
    assert isinstance(loop._selector, GreenPoll)
    pairs = [socket.socketpair() for _ in range(700)]
    seen = set()

    def read(ours):
        ours.recv(10)
        seen.add(ours.fileno())
        if len(seen) == len(pairs):
            loop.stop()

    for ours, _ in pairs:
        loop.add_reader(ours.fileno(), read, ours)
    for _, theirs in pairs:
        theirs.send(b"x")
    loop.run()
    assert max(seen) > 1024
    for ours, theirs in pairs:
        loop.remove_reader(ours.fileno())
        ours.close()
        theirs.close()
    loop.close()


def test_a_closed_descriptor_is_forgotten():
    loop = EventLoop()
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    loop.add_reader(fd, print)
    ours.close()
    theirs.close()
    loop.remove_reader(fd)
    loop.call_soon(loop.stop)
    loop.run()
    loop.close()
