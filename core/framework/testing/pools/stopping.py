"""Promises 4 and 5: `quiesce`, `stop` and `kill` work in any order and repeatedly, and leak nothing."""

from __future__ import annotations

import contextlib

import pytest

from framework.api.pool import SUCCESS, TERMINATED
from framework.testing import ledger
from framework.testing.harness import Harness, within
from framework.testing.pools.base import Bench, PoolSuiteBase, needs
from framework.testing.survey import Survey, is_alive, survey
from framework.testing.wait import wait_for

ENDS = [
    ("stop", "stop"),
    ("kill", "kill"),
    ("kill", "stop"),
    ("stop", "kill"),
    ("quiesce", "stop", "quiesce"),
    ("quiesce", "kill", "stop", "kill"),
]


class StopPromises(PoolSuiteBase):
    """Tests of the end of a pool."""

    def _fill(self, start: Bench, pool: Harness) -> tuple[bytes, list[int], list[int]]:
        """Run a job in every slot and queue many jobs known to be short.

        Returns the path of the file that the running jobs wait for, the running jobs and the waiting jobs.
        """
        pool.run(*[b"noop"] * 50, task="short")
        gate = bytes(start.gate())
        running = pool.submit(*[b"note:in;await:%s" % gate] * start.slots, task="short")
        waiting = pool.submit(*[b"note:ran"] * 40, task="short")
        wait_for(
            lambda: ledger.read(pool.ledger)["in"] == start.slots and set(running) <= pool.begun.keys(),
            self.patience,
            "a job in every slot",
        )
        return gate, running, waiting

    # ------------------------------------------------------------ quiesce

    def test_quiesce_takes_back_what_has_not_begun(self, start: Bench) -> None:
        """`quiesce` returns waiting jobs, which never run; running jobs end normally; a second call returns nothing."""
        pool = start()
        gate, running, waiting = self._fill(start, pool)
        taken = pool.quiesce()
        ran = ledger.read(pool.ledger)["ran"]
        assert not set(taken) & set(running), "a running job was taken back"
        assert len(taken) == len(set(taken)), "a job was taken back twice"
        assert pool.quiesce() == []
        open(gate, "w").close()
        kept = [seq for seq in [*running, *waiting] if seq not in taken and seq not in pool.held_back]
        assert {outcome.code for outcome in pool.wait(kept)} == {SUCCESS}
        pool.stop()
        assert ledger.read(pool.ledger)["ran"] == ran, "a job started after quiesce"
        assert not set(taken) & pool.begun.keys(), "a job that was taken back started"

    def test_quiesce_of_an_idle_pool_returns_nothing(self, start: Bench) -> None:
        """`quiesce` returns nothing when no job waits."""
        pool = start()
        pool.run(*[b"noop"] * 10)
        assert pool.quiesce() == []

    @pytest.mark.parametrize("moment", [1, 30, 120])
    def test_quiesce_at_any_moment_keeps_the_books(self, start: Bench, moment: int) -> None:
        """At any moment, every job has run, was returned by `quiesce`, or was never submitted to the pool."""
        pool = start()
        seqs = pool.submit(*[b"note:%d;sleep:0.001" % number for number in range(300)], task="short")
        pool.wait_ended(moment)
        taken = set(pool.quiesce())
        ran = [seq for seq in seqs if seq not in taken and seq not in pool.held_back]
        assert {outcome.code for outcome in pool.wait(ran)} == {SUCCESS}
        pool.stop()
        pool.check_ledger(seq - seqs[0] for seq in ran)

    # ------------------------------------------------------------ stop and kill

    def test_stop_before_start_is_harmless(self, start: Bench) -> None:
        """`stop` of a pool that was never started returns without an error."""
        harness = start.make()
        within(self.patience, lambda: harness.pool.stop(harness.loop.time()), "stop")
        harness.stop(0)

    @pytest.mark.parametrize("ends", ENDS, ids="-".join)
    def test_ends_in_any_order_and_twice(self, start: Bench, ends: tuple[str, ...]) -> None:
        """`quiesce`, `stop` and `kill` may be called in any order and repeatedly."""
        pool = start()
        assert pool.run(b"noop")[0].code == SUCCESS
        for end in ends:
            if end == "stop":
                within(self.patience, lambda: pool.pool.stop(pool.loop.time() + 5), "stop")
            elif end == "kill":
                pool.kill()
            else:
                assert pool.quiesce() == []

    def test_stop_waits_for_what_runs(self, start: Bench) -> None:
        """A running job that ends before the deadline of `stop` runs to its end."""
        pool = start()
        [seq] = pool.submit(b"note:began;sleep:0.3;note:ended")
        pool.wait_begun(seq)
        wait_for(lambda: ledger.size(pool.ledger) == 1, self.patience, "the job to be in its sleep")
        within(self.patience * 2, lambda: pool.pool.stop(pool.loop.time() + self.patience), "stop")
        assert ledger.lines(pool.ledger) == ["began", "ended"]

    def test_stop_keeps_its_deadline(self, start: Bench) -> None:
        """`stop` returns at its deadline, even if a job still runs."""
        pool = start()
        gate = start.gate()
        [seq] = pool.submit(b"await:%s" % bytes(gate))
        pool.wait_begun(seq)
        within(self.patience, lambda: pool.pool.stop(pool.loop.time() + 0.2), "stop")
        gate.touch()

    def test_kill_ends_what_runs(self, start: Bench) -> None:
        """After `kill`, every running job ends as TERMINATED and no waiting job starts."""
        pool = start()
        gate, running, _ = self._fill(start, pool)
        ran = ledger.read(pool.ledger)["ran"]
        pool.kill()
        assert {outcome.code for outcome in pool.wait(running)} == {TERMINATED}
        open(gate, "w").close()
        pool.stop()
        assert ledger.read(pool.ledger)["ran"] == ran, "a job started after kill"

    def test_what_is_killed_as_it_begins_has_an_end(self, start: Bench) -> None:
        """When `kill` follows `submit` at once, every job that was reported as started is reported as ended."""
        pool = start()
        pool.run(b"noop")
        gate = start.gate()
        seqs = pool.submit(*[b"await:%s" % bytes(gate)] * start.slots)
        pool.kill()
        begun = [seq for seq in seqs if seq in pool.begun]
        assert {outcome.code for outcome in pool.wait(begun)} <= {TERMINATED}
        gate.touch()

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_pool_that_has_ended_wants_no_jobs(self, start: Bench, end: str) -> None:
        """The capacity is 0 after `stop` or `kill`."""
        pool = start()
        pool.run(b"noop")
        if end == "stop":
            within(self.patience, lambda: pool.pool.stop(pool.loop.time() + 5), "stop")
        else:
            pool.kill()
        assert pool.capacity() == 0

    # ------------------------------------------------------------ leaks

    def test_ten_lives_leave_nothing_behind(self, start: Bench) -> None:
        """Starting and stopping ten pools leaves no descriptor, thread or child process."""
        self._live(start)
        before = survey()
        for _ in range(10):
            self._live(start)
        self._nothing_left(before)

    def _live(self, start: Bench) -> None:
        pool = start()
        assert {outcome.code for outcome in pool.run(*[b"noop"] * 8)} == {SUCCESS}
        pids = pool.pids() if start.traits.processes else []
        pool.stop()
        pool.check()
        wait_for(lambda: not any(map(is_alive, pids)), self.patience, f"the processes {pids} to end")

    def _nothing_left(self, before: Survey) -> None:
        found: list[str] = []

        def nothing() -> bool:
            found[:] = survey().left_since(before)
            return not found

        wait_for(nothing, self.patience, lambda: f"no leak; found {', '.join(found)}")

    @needs("restart")
    def test_ten_restarts_leave_nothing_behind(self, start: Bench) -> None:
        """Ten restarts of a pool, with jobs in between, leave no descriptor, thread or child process."""
        pool = start()
        if start.traits.processes:
            # Processes that are still starting would be taken for the new ones.
            wait_for(lambda: len(pool.pids()) == start.slots, self.patience, "the first processes")
        self._restart(pool, start)
        before = survey()
        for _ in range(10):
            self._restart(pool, start)
        self._nothing_left(before)

    def _restart(self, pool: Harness, start: Bench) -> None:
        before = set(pool.pids()) if start.traits.processes else set()
        pool.call(pool.pool.restart)
        assert {outcome.code for outcome in pool.run(*[b"noop"] * 8)} == {SUCCESS}
        wait_for(lambda: not before & set(pool.pids()), self.patience, "the old processes to be replaced")
        if start.traits.processes:
            wait_for(lambda: len(pool.pids()) == start.slots, self.patience, "the new processes")

    @needs("terminate", "hard_limit")
    def test_jobs_ended_by_force_leave_nothing_behind(self, start: Bench) -> None:
        """Ten jobs over their hard limit and ten terminated jobs leave no descriptor, thread or child process."""
        pool = start()
        self._force(pool)
        before = survey()
        for _ in range(10):
            self._force(pool)
        self._nothing_left(before)

    def _force(self, pool: Harness) -> None:
        stuck = pool.submit(b"spin:30", hard=0.02)
        [seq] = pool.submit(b"spin:30")
        pool.wait(stuck)
        pool.wait_begun(seq)
        pool.terminate(seq)
        pool.wait([seq])
        pool.run(*[b"noop"] * 4)
        ended = {pool.begun[each][0] for each in (*stuck, seq) if each in pool.begun}

        def whole() -> bool:
            if pool.pool.traits.processes:
                pids = pool.pids()
                return len(pids) == pool.slots and not ended.intersection(pids) and pool.capacity() >= pool.slots
            return pool.capacity() >= pool.slots

        with contextlib.suppress(AssertionError):
            # A pool may need a moment to replace slots.
            wait_for(whole, 3, "every slot")
