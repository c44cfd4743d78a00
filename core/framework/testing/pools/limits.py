"""Time limits and termination: they end the intended job and no other."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from framework.api.pool import FAILURE, SOFT_TIMED_OUT, SUCCESS, TERMINATED, TIMED_OUT
from framework.testing.locks import LOCKS
from framework.testing.pools.base import Bench, PoolSuiteBase, needs
from framework.testing.workload import TAKEN

SIGTERM = 15


class LimitPromises(PoolSuiteBase):
    """Tests of time limits and termination."""

    @needs("soft_limit")
    def test_the_soft_limit_can_be_caught(self, start: Bench) -> None:
        """`SoftTimeLimitExceeded` is raised in the job, which can catch it, clean up and succeed."""
        pool = start()
        [outcome] = pool.run(b"soft:30", soft=0.2)
        assert (outcome.code, outcome.note) == (SUCCESS, "cleaned up")

    @needs("soft_limit")
    def test_the_soft_limit_ends_a_job_that_does_not_catch_it(self, start: Bench) -> None:
        """A job that does not catch `SoftTimeLimitExceeded` fails, and its slot runs the next job."""
        pool = start()
        [outcome] = pool.run(b"spin:30", soft=0.2)
        assert outcome.code in (FAILURE, SOFT_TIMED_OUT)
        assert pool.run(b"noop")[0].code == SUCCESS

    @needs("soft_limit")
    def test_soft_limits_never_hit_the_next_job(self, start: Bench) -> None:
        """When soft limits expire just as jobs end, each job ends once and later jobs are not interrupted."""
        pool = start()
        outcomes = pool.run(*[b"spin:0.004"] * 200, soft=0.004)
        assert {outcome.code for outcome in outcomes} <= {SUCCESS, FAILURE, SOFT_TIMED_OUT}
        assert {outcome.code for outcome in pool.run(*[b"spin:0.002"] * 50)} == {SUCCESS}

    @pytest.fixture
    def handlers(self) -> Iterator[None]:
        """Restore the signal handlers of this process, in which a pool may run its jobs."""
        handlers = {signum: signal.getsignal(signum) for signum in TAKEN}
        yield
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TAKEN)

    @needs("soft_limit")
    @pytest.mark.usefixtures("handlers")
    @pytest.mark.parametrize("how", ["ignore", "block", "handler"])
    def test_soft_limits_hold_after_a_job_has_taken_signals(self, start: Bench, how: str) -> None:
        """A job that ignores, blocks or handles USR1, USR2, URG and ALRM does not disable the limits of later jobs."""
        pool = start(1)
        pool.run(b"take_signals:%s" % how.encode())
        for _ in range(2):
            [outcome] = pool.run(b"soft:20", soft=0.2)
            assert (outcome.code, outcome.note) == (SUCCESS, "cleaned up")

    @needs("hard_limit")
    def test_the_hard_limit_ends_a_job(self, start: Bench) -> None:
        """The job ends as TIMED_OUT, not before its limit and with the limit as note; the slot runs the next job."""
        pool = start()
        [outcome] = pool.run(b"spin:30", hard=0.2)
        assert (outcome.code, outcome.note) == (TIMED_OUT, "0.2")
        assert 0.2 <= outcome.runtime < 30
        assert pool.run(b"noop")[0].code == SUCCESS

    @needs("hard_limit")
    def test_the_hard_limit_cannot_be_caught(self, start: Bench) -> None:
        """A job that ignores all exceptions ends as TIMED_OUT too, and its slot runs the next job."""
        pool = start(1)
        [outcome] = pool.run(b"stubborn:1.5", hard=0.1)
        assert outcome.code == TIMED_OUT
        assert pool.run(b"noop")[0].code == SUCCESS

    @needs("hard_limit")
    def test_the_hard_limit_ends_only_its_job(self, start: Bench) -> None:
        """A job in another slot keeps running, and later jobs succeed."""
        if start.slots == 1:
            pytest.skip(f"the pool {start.name!r} has one slot")
        pool = start()
        gate = start.gate()
        [neighbour] = pool.submit(b"await:%s" % bytes(gate), hard=30)
        pool.wait_begun(neighbour)
        [outcome] = pool.run(b"spin:30", hard=0.2)
        assert outcome.code == TIMED_OUT
        assert neighbour not in pool.ended
        gate.touch()
        assert pool.wait([neighbour])[0].code == SUCCESS
        assert {outcome.code for outcome in pool.run(*[b"noop"] * 10)} == {SUCCESS}

    @needs("soft_limit", "hard_limit")
    def test_the_hard_limit_follows_the_soft_one(self, start: Bench) -> None:
        """A job that takes too long to clean up after its soft limit ends at its hard limit."""
        pool = start()
        [outcome] = pool.run(b"soft:30;spin:30", soft=0.1, hard=0.5)
        assert (outcome.code, outcome.note) == (TIMED_OUT, "0.5")

    @needs("soft_limit", "hard_limit")
    def test_a_job_below_its_limits_is_left_alone(self, start: Bench) -> None:
        """A job that ends before its limits succeeds."""
        pool = start()
        outcomes = pool.run(*[b"sleep:0.01"] * 20, soft=20, hard=30)
        assert {outcome.code for outcome in outcomes} == {SUCCESS}

    @needs("soft_limit", "hard_limit")
    def test_limits_count_from_the_beginning_of_a_job(self, start: Bench) -> None:
        """The time that a job waits in the pool does not count towards its limits."""
        pool = start(1)
        pool.run(*[b"noop"] * 50, task="short")
        first = pool.submit(b"sleep:1", task="short")
        waiting = pool.submit(*[b"noop"] * 5, task="short", soft=0.5, hard=0.6)
        assert {outcome.code for outcome in pool.wait([*first, *waiting])} == {SUCCESS}

    @pytest.mark.parametrize("limit", ["soft", "hard"])
    @pytest.mark.parametrize("lock", LOCKS)
    def test_a_limit_leaves_no_lock_taken(self, start: Bench, lock: str, limit: str) -> None:
        """A limit that strikes while a job takes locks ends that job; the loop and later jobs can take these locks."""
        if not getattr(start.traits, f"{limit}_limit"):
            pytest.skip(f"the pool {start.name!r} has no {limit} limit")
        if self.coroutines:
            pytest.skip("a coroutine is interrupted where it awaits, and these jobs never do")
        if start.traits.green and lock == "import":
            pytest.skip("to the locks of imports all greenlets are one thread")
        pool = start()
        name = lock.encode()
        jobs = 10 if start.traits.processes else 60
        outcomes = pool.run(*[b"locks:%s" % name] * jobs, **{limit: 0.02})
        assert {outcome.code for outcome in outcomes} <= ({FAILURE, SOFT_TIMED_OUT} if limit == "soft" else {TIMED_OUT})
        pool.call(LOCKS[lock])
        assert {outcome.code for outcome in pool.run(*[b"lock:%s" % name] * 50)} == {SUCCESS}

    # ------------------------------------------------------------ termination

    @needs("terminate")
    def test_terminate_ends_a_job(self, start: Bench) -> None:
        """A terminated job ends once, as TERMINATED with a note, and its slot runs the next job."""
        pool = start(1)
        [seq] = pool.submit(b"spin:30")
        pool.wait_begun(seq)
        pool.terminate(seq)
        [outcome] = pool.wait([seq])
        assert outcome.code == TERMINATED
        assert outcome.note
        assert pool.run(b"noop")[0].code == SUCCESS

    @needs("terminate")
    def test_terminate_ends_only_its_job(self, start: Bench) -> None:
        """Termination does not affect a job in another slot or later jobs."""
        if start.slots == 1:
            pytest.skip(f"the pool {start.name!r} has one slot")
        pool = start()
        gate = start.gate()
        neighbour, target = pool.submit(b"await:%s" % bytes(gate), b"spin:30")
        pool.wait_begun(neighbour, target)
        others = pool.submit(*[b"noop"] * 5)
        pool.terminate(target)
        assert pool.wait([target])[0].code == TERMINATED
        assert neighbour not in pool.ended
        gate.touch()
        assert {outcome.code for outcome in pool.wait([neighbour, *others])} == {SUCCESS}

    @needs("terminate")
    def test_terminate_tells_what_runs(self, start: Bench) -> None:
        """`terminate` returns False for an unknown job and for one that has ended, and affects no other job."""
        pool = start()
        [seq] = pool.submit(b"noop")
        pool.wait([seq])
        assert not pool.call(pool.pool.terminate, 12345, SIGTERM)
        assert not pool.call(pool.pool.terminate, seq, SIGTERM)
        assert {outcome.code for outcome in pool.run(*[b"spin:0.002"] * 20)} == {SUCCESS}

    @needs("terminate")
    def test_terminating_twice_ends_a_job_once(self, start: Bench) -> None:
        """A second `terminate` of the same job has no effect."""
        pool = start()
        [seq] = pool.submit(b"spin:30")
        pool.wait_begun(seq)
        pool.terminate(seq)
        pool.call(pool.pool.terminate, seq, SIGTERM)
        assert pool.wait([seq])[0].code == TERMINATED
        assert {outcome.code for outcome in pool.run(*[b"spin:0.002"] * 20)} == {SUCCESS}

    @needs("terminate")
    def test_terminations_never_hit_the_next_job(self, start: Bench) -> None:
        """Jobs that end just as they are terminated end once, and later jobs are not affected."""
        pool = start()
        for _ in range(30):
            [seq] = pool.submit(b"spin:0.003")
            pool.wait_begun(seq)
            pool.call(pool.pool.terminate, seq, SIGTERM)
            assert pool.wait([seq])[0].code in (SUCCESS, TERMINATED)
            assert pool.run(b"noop")[0].code == SUCCESS
