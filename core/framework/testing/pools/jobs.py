"""Promises 1 to 3: each job starts once and ends once with its own outcome; no call blocks and no job is stuck."""

from __future__ import annotations

import random
from typing import Any

import pytest

from framework.api.pool import FAILURE, IGNORED, INVALID, REJECTED, REQUEUED, RETRY, REVOKED, SUCCESS, WORKER_LOST
from framework.testing import ledger
from framework.testing.harness import Harness
from framework.testing.pools.base import Bench, PoolSuiteBase, needs
from framework.testing.wait import wait_for
from framework.testing.workload import digest

#: Payloads that the workload cannot parse and that every pool must carry unchanged.
ODD_PAYLOADS = [
    b"",
    bytes(range(256)),
    b"\xff" * 70_000,
    b"noop\n",
    ({"task": "t", "n": [1, None, 2.5, True, "\u00fc"]}, {"priority": 3}, "application/json", "utf-8", b"[]"),
]


def most_at_once(pool: Harness) -> int:
    """Return the largest number of concurrent jobs, from the entries "in" and "out" of the ledger."""
    inside = most = 0
    for line in ledger.lines(pool.ledger):
        inside += {"in": 1, "out": -1}.get(line, 0)
        most = max(most, inside)
    return most


class JobPromises(PoolSuiteBase):
    """Tests of jobs and their outcomes."""

    def test_every_job_runs_once_and_ends_once(self, start: Bench) -> None:
        """Each of thousands of small jobs runs once and ends once, with its own outcome."""
        pool = start()
        numbers = range(self.many)
        outcomes = pool.run(*[b"note:%d;echo:%d" % (number, number) for number in numbers])
        assert {outcome.code for outcome in outcomes} == {SUCCESS}
        assert [outcome.note for outcome in outcomes] == [str(number) for number in numbers]
        pool.check_ledger(numbers)
        pool.check()

    def test_a_job_begins_before_it_ends(self, start: Bench) -> None:
        """`started` is called once for each job, in the loop, before `finished`, with the pid of its process."""
        pool = start()
        seqs = [seq for _ in range(20) for seq in pool.submit(b"noop", b"sleep:0.002")]
        pool.wait(seqs)
        pool.check()
        assert [seq for seq in seqs if pool.begun[seq][1] > pool.ended_at[seq]] == []

    def test_a_running_job_is_reported_while_it_runs(self, start: Bench) -> None:
        """`started` is reported while a job runs, even if the job waited behind short jobs."""
        pool = start()
        pool.run(*[b"noop"] * 50, task="short")
        gate = start.gate()
        seqs = pool.submit(*[b"noop"] * 10, b"await:%s" % bytes(gate), *[b"noop"] * 10, task="short")
        pool.wait_begun(seqs[10])
        gate.touch()
        pool.wait(seqs)

    def test_a_random_mix_loses_nothing(self, start: Bench) -> None:
        """In a random mix of short, long and failing jobs with the same task name, each job runs once and ends once."""
        pool = start()
        rng = random.Random(7)
        tails = [rng.choices(["", ";sleep:0.0005", ";sleep:0.03", ";raise"], [70, 27, 2, 1])[0] for _ in range(1_000)]
        outcomes = pool.run(*[f"note:{number}{tail}".encode() for number, tail in enumerate(tails)])
        pool.check_ledger(range(1_000))
        wanted = [FAILURE if tail == ";raise" else SUCCESS for tail in tails]
        assert [outcome.code for outcome in outcomes] == wanted

    def test_outcomes_come_home_unchanged(self, start: Bench) -> None:
        """The pool returns the workload's outcome unchanged: code, document, note and traceback."""
        pool = start()
        codes = [SUCCESS, FAILURE, RETRY, IGNORED, REJECTED, REQUEUED, REVOKED, INVALID]
        outcomes = pool.run(*[b"big:%d;echo:as it was;end:%d" % (code + 1, code) for code in codes])
        for code, outcome in zip(codes, outcomes, strict=True):
            assert (outcome.code, outcome.document, outcome.note) == (code, b"x" * (code + 1), "as it was")
            assert outcome.traceback == (f"traceback of {code}" if code else "")
            assert 0 <= outcome.runtime < self.patience

    def test_large_payloads_and_documents(self, start: Bench) -> None:
        """Payloads and documents may have megabytes."""
        pool = start()
        sizes = [10, 70_000, 3_000_000, 500]
        outcomes = pool.run(*[b"big:%d;noop:%s" % (size, b"y" * size) for size in sizes])
        assert [len(outcome.document or b"") for outcome in outcomes] == sizes

    @pytest.mark.parametrize("payload", ODD_PAYLOADS, ids=["empty", "binary", "long", "text", "parts"])
    def test_any_payload_arrives_as_it_was(self, start: Bench, payload: Any) -> None:
        """A payload is opaque: any bytes, or the parts of an AMQP message, arrive unchanged."""
        pool = start()
        [outcome] = pool.run(payload)
        assert (outcome.code, outcome.note) == (INVALID, digest(payload))

    def test_a_payload_that_cannot_be_carried_ends_too(self, start: Bench) -> None:
        """A job whose payload cannot be serialized ends as INVALID, and the next jobs run."""
        pool = start()
        bad: Any = ({"header": object()}, {}, "application/json", "utf-8", b"[]")
        outcomes = pool.run(b"noop", bad, b"noop")
        assert [outcome.code for outcome in outcomes] == [SUCCESS, INVALID, SUCCESS]

    def test_submit_never_blocks(self, start: Bench) -> None:
        """The loop keeps running while all slots are busy and megabytes are in transit."""
        pool = start()
        gate = start.gate()
        try:
            seqs = pool.submit(*[b"await:%s;noop:%s" % (bytes(gate), b"y" * 4_000_000)] * start.slots)
            pool.call(pool.pool.info)
            pool.call(gate.touch)
        finally:
            gate.touch()
        assert {outcome.code for outcome in pool.wait(seqs)} == {SUCCESS}

    def test_jobs_run_side_by_side_in_all_slots_and_no_more(self, start: Bench) -> None:
        """Exactly as many jobs run at the same time as the pool has slots."""
        pool = start()
        wanted = start.slots
        outcomes = pool.run(*[b"note:in;meet:%d;sleep:0.02;note:out" % wanted] * (wanted * 4))
        assert {outcome.code for outcome in outcomes} == {SUCCESS}
        assert most_at_once(pool) == wanted

    def test_capacity_is_what_is_free_when_jobs_are_long(self, start: Bench) -> None:
        """The capacity is the number of slots while idle, and 0 while all slots run jobs known to be long."""
        pool = start()
        pool.run(*[b"sleep:0.1"] * start.slots, task="long")
        wait_for(lambda: pool.capacity() == start.slots, self.patience, "a capacity of every slot")
        gate = start.gate()
        busy = pool.submit(*[b"await:%s" % bytes(gate)] * start.slots, task="long")
        pool.wait_begun(*busy)
        assert pool.capacity() == 0
        gate.touch()
        pool.wait(busy)
        wait_for(lambda: pool.capacity() == start.slots, self.patience, "a capacity of every slot again")

    def test_a_long_job_holds_none_up_that_another_slot_could_run(self, start: Bench) -> None:
        """When a job of a short task takes long, the jobs that the pool accepted with it run in other slots."""
        if start.slots == 1:
            pytest.skip(f"the pool {start.name!r} has one slot")
        pool = start()
        pool.run(*[b"noop"] * 50, task="short")
        gate = start.gate()
        surprise = b"await:%s" % bytes(gate)
        seqs = pool.submit(*[b"noop"] * 20, surprise, *[b"noop"] * 20, task="short")
        pool.wait([*seqs[:20], *seqs[21:]])
        assert seqs[20] not in pool.ended
        gate.touch()
        pool.wait(seqs)

    @needs("processes")
    def test_a_job_whose_process_dies_is_lost_alone(self, start: Bench) -> None:
        """A job that kills its process, by a signal or `os._exit`, ends as WORKER_LOST; all others run exactly once."""
        pool = start()
        pool.run(*[b"noop"] * 40, task="short")
        payloads = [b"note:%d" % number for number in range(200)]
        payloads[30], payloads[120] = b"die:9", b"exit:3"
        outcomes = pool.run(*payloads, task="short")
        assert [n for n, outcome in enumerate(outcomes) if outcome.code == WORKER_LOST] == [30, 120]
        assert [outcome.note for outcome in outcomes if outcome.code == WORKER_LOST and not outcome.note] == []
        assert {outcome.code for outcome in outcomes} == {SUCCESS, WORKER_LOST}
        pool.check_ledger(number for number in range(200) if number not in (30, 120))

    @needs("async_tasks")
    def test_coroutines_run_side_by_side(self, start: Bench) -> None:
        """As many coroutines as slots run at the same time, in one thread."""
        pool = start(20, {"coroutines": True})
        outcomes = pool.run(*[b"note:in;meet:20;note:out"] * 20)
        assert {outcome.code for outcome in outcomes} == {SUCCESS}
        assert most_at_once(pool) == 20
        names = {outcome.note for outcome in pool.run(*[b"sleep:0.001;thread"] * 20)}
        assert len(names) == 1, f"coroutines ran in the threads {names}"

    @needs("main_thread")
    def test_jobs_run_in_the_main_thread(self, start: Bench) -> None:
        """The jobs run in the main thread, in which `run_main` is called."""
        assert [outcome.note for outcome in start().run(*[b"thread"] * 3)] == ["main"] * 3

    def test_two_pools_are_two(self, start: Bench) -> None:
        """Stopping one pool does not affect another."""
        if start.traits.main_thread:
            pytest.skip(f"the pool {start.name!r} needs the main thread, which only one pool can have")
        one, two = start(), start()
        one.run(b"noop")
        one.stop()
        assert two.run(b"echo:still here")[0].note == "still here"
