"""Runs a pool in the worker's real loop and records its reports.

1. `Harness` creates the pool, runs the loop in a thread, and has `run_main` called if the pool needs the main thread.
2. `submit` queues a job for each payload and feeds the pool up to its capacity; `wait` waits until jobs have ended.
3. `problems` lists broken promises that the reports show: a job that ended twice, or without having started, an
   unknown job, a negative capacity, a report from outside the loop.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec

from framework._boot.loop import EventLoop
from framework.api.pool import INVALID, Job, Outcome, Pool, PoolContext, Workload
from framework.api.workload import load
from framework.message import Payload
from framework.testing import ledger
from framework.testing.wait import wait_for
from framework.testing.workload import SampleWorkload

T = TypeVar("T")

#: Seconds without any progress after which a test fails.
PATIENCE: Final = 20.0


def _in_a_thread(run_main: Callable[[], None]) -> None:
    threading.Thread(target=run_main, name="main-of-pool", daemon=True).start()


def within(seconds: float, function: Callable[[], T], what: str) -> T:
    """Call `function` in a new thread and return its result; fail if it takes longer than `seconds`."""
    box: list[tuple[bool, Any]] = []
    done = threading.Event()

    def run() -> None:
        try:
            box.append((True, function()))
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            box.append((False, error))
        done.set()

    threading.Thread(target=run, name=what, daemon=True).start()
    return cast("T", _unpack(box, done, seconds, f"{what} did not return within {seconds:g} s"))


def _unpack(box: list[tuple[bool, Any]], done: threading.Event, seconds: float, complaint: str) -> Any:
    assert done.wait(seconds), complaint
    good, answer = box[0]
    if not good:
        raise answer
    return answer


class Harness:
    """One pool in a loop, from start to stop; a context manager.

    Arguments: the pool's class; its slots; `recipe` (see `framework.testing.workload`); `options`, None: the defaults;
    `patience`, seconds without progress before a test fails; `main`, which gets `run_main` and has it called; and
    further fields of the `PoolContext`.
    """

    def __init__(
        self,
        pool_type: type[Pool],
        concurrency: int = 2,
        recipe: Mapping[str, Any] | None = None,
        *,
        options: msgspec.Struct | None = None,
        patience: float = PATIENCE,
        main: Callable[[Callable[[], None]], object] = _in_a_thread,
        **context: Any,
    ) -> None:
        self.slots = concurrency
        self._pool_type = pool_type
        self.errors: list[BaseException] = []
        self.recipe = {"factory": "framework.testing.workload:factory", **(recipe or {})}
        self.jobs: dict[int, Job] = {}
        self.begun: dict[int, tuple[int, float]] = {}
        self.ended: dict[int, Outcome] = {}
        self.ended_at: dict[int, float] = {}
        self.taken_back: set[int] = set()
        self.problems: list[str] = []
        self.vacancies = 0
        self.killed = False
        self._patience = patience
        self._queue: deque[Job] = deque()
        self._seq = itertools.count(1)
        self._feeding = True
        self._closed = False
        self._main = main
        self._main_done = threading.Event()
        self.loop = EventLoop(self.errors.append)
        made = PoolContext(
            loop=self.loop,
            events=self,
            concurrency=concurrency,
            workload=self._workload,
            recipe=self.recipe,
            outcome_for=self.outcome_for,
            hostname="test@here",
            **context,
        )
        try:
            self.pool = pool_type(made, pool_type.options_type() if options is None else options)
        except BaseException:
            self.loop.close()
            raise
        self.thread = threading.Thread(target=self.loop.run, name="loop", daemon=True)

    def _workload(self) -> Workload:
        workload = load(self.recipe)
        if isinstance(workload, SampleWorkload):
            workload.interrupts += self._pool_type.interrupts
        return workload

    def start(self) -> Harness:
        """Start the pool and then the loop, as a worker does."""
        self.pool.prestart()
        self.pool.start()
        self.thread.start()
        if self.pool.traits.main_thread:
            self._main(self._run_main)
        else:
            self._main_done.set()
        return self

    def _run_main(self) -> None:
        try:
            self.pool.run_main()
        finally:
            self._main_done.set()

    # ------------------------------------------------------------ PoolEvents

    def outcome_for(self, job: Job, code: int, text: str, runtime: float) -> Outcome:
        """Return the outcome of a job that could not report its end."""
        return Outcome(job.seq, code, runtime, None, text)

    def started(self, seqs: Sequence[int], pid: int) -> None:
        """Record jobs that have started."""
        now = time.monotonic()
        self._expect_loop("started")
        for seq in seqs:
            if seq in self.begun:
                self.problems.append(f"job {seq} started twice")
            if seq not in self.jobs or seq in self.taken_back:
                self.problems.append(f"job {seq} started but does not belong to the pool")
            if not pid:
                self.problems.append(f"job {seq} started without a pid")
            self.begun[seq] = (pid, now)

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Record jobs that have ended, and submit more."""
        now = time.monotonic()
        self._expect_loop("finished")
        for outcome in outcomes:
            seq = outcome.seq
            if seq in self.ended:
                self.problems.append(f"job {seq} ended twice")
            if seq not in self.jobs or seq in self.taken_back:
                self.problems.append(f"job {seq} ended but does not belong to the pool")
            if seq not in self.begun and outcome.code != INVALID:
                self.problems.append(f"job {seq} ended but never started")
            self.ended[seq] = outcome
            self.ended_at[seq] = now
        self._feed()

    def vacancy(self) -> None:
        """Submit more jobs: the pool has capacity again."""
        self.vacancies += 1
        self._expect_loop("vacancy")
        self._feed()

    def _expect_loop(self, event: str) -> None:
        # Before the loop runs, `start` may report from any thread.
        if self.loop.running and threading.current_thread() is not self.thread:
            self.problems.append(f"{event} was called outside the loop, in {threading.current_thread().name}")

    # ------------------------------------------------------------ for tests

    def _feed(self) -> None:
        capacity = self.pool.capacity()
        if capacity < 0:
            self.problems.append(f"the capacity was {capacity}")
        count = min(capacity, len(self._queue))
        if count > 0 and self._feeding:
            self.pool.submit([self._queue.popleft() for _ in range(count)])

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` in the loop and return its result."""
        done = threading.Event()
        box: list[tuple[bool, Any]] = []

        def run() -> None:
            try:
                box.append((True, function(*args)))
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                box.append((False, error))
            done.set()

        self.loop.call_soon_threadsafe(run)
        return cast("T", _unpack(box, done, self._patience, "the loop does not run"))

    def submit(
        self, *payloads: Payload, task: str = "t", soft: float | None = None, hard: float | None = None
    ) -> list[int]:
        """Queue a job for each payload and submit jobs up to the pool's capacity; return the jobs' numbers."""
        jobs = [Job(next(self._seq), payload, task, f"id-{repr(payload)[:30]}", soft, hard) for payload in payloads]
        for job in jobs:
            self.jobs[job.seq] = job

        def feed() -> None:
            self._queue.extend(jobs)
            self._feed()

        self.loop.call_soon_threadsafe(feed)
        return [job.seq for job in jobs]

    def wait(self, seqs: Iterable[int] | None = None, timeout: float | None = None) -> list[Outcome]:
        """Wait until the jobs `seqs` (default: all) have ended, and return their outcomes.

        Fails when no job has ended for `timeout` seconds (default: the harness's patience).
        """
        wanted = list(self.jobs if seqs is None else seqs)
        patience = self._patience if timeout is None else timeout
        while missing := [seq for seq in wanted if seq not in self.ended]:
            self._wait_for_progress(missing, patience)
        return [self.ended[seq] for seq in wanted]

    def _wait_for_progress(self, missing: list[int], patience: float) -> None:
        number = len(self.ended)
        wait_for(
            lambda: len(self.ended) > number or all(seq in self.ended for seq in missing),
            patience,
            lambda: f"jobs {missing[:10]} to end; {self.complaints()}",
        )

    def wait_ended(self, number: int) -> None:
        """Wait until `number` jobs have ended."""
        while len(self.ended) < number:
            self._wait_for_progress([seq for seq in self.jobs if seq not in self.ended], self._patience)

    def run(self, *payloads: Payload, timeout: float | None = None, **kwargs: Any) -> list[Outcome]:
        """Submit a job for each payload and return the outcomes."""
        return self.wait(self.submit(*payloads, **kwargs), timeout)

    def wait_begun(self, *seqs: int) -> int:
        """Wait until all jobs `seqs` are reported as started; return the pid of the last one."""
        wait_for(
            lambda: all(seq in self.begun for seq in seqs),
            self._patience,
            lambda: f"jobs {[seq for seq in seqs if seq not in self.begun]} to start; {self.complaints()}",
        )
        return self.begun[seqs[-1]][0]

    def quiesce(self) -> list[int]:
        """Stop submitting jobs and return the jobs that the pool gives back because they have not started."""

        def quiesce() -> list[int]:
            self._feeding = False
            seqs = self.pool.quiesce()
            self.taken_back.update(seqs)
            return seqs

        return list(self.call(quiesce))

    def terminate(self, seq: int, signum: int = 15) -> None:
        """Terminate the job `seq`; retry, as a job may be reported as started before it can be terminated."""
        wait_for(lambda: self.call(self.pool.terminate, seq, signum), self._patience, f"job {seq} to be terminated")

    def kill(self) -> None:
        """Kill the pool and submit no more jobs."""
        self.killed = True
        self._feeding = False
        self.call(self.pool.kill)

    @property
    def held_back(self) -> set[int]:
        """The jobs that have not been submitted to the pool so far."""
        return {job.seq for job in list(self._queue)}

    def info(self) -> dict[str, Any]:
        """Return the pool's figures for `inspect stats`."""
        return self.call(self.pool.info)

    def capacity(self) -> int:
        """Return how many more jobs the pool accepts."""
        return self.call(self.pool.capacity)

    def pids(self) -> list[int]:
        """Return the pids, or thread ids, that the pool reports."""
        return list(self.info()["processes"])

    @property
    def ledger(self) -> Path:
        """The file that jobs write entries to."""
        return Path(self.recipe["ledger"])

    def check_ledger(self, ids: Iterable[object]) -> None:
        """Fail unless the ledger has exactly one entry for each of `ids` and no other entry."""
        books = ledger.balance(ids, self.ledger)
        assert books.balanced, f"the ledger: {books}"

    # ------------------------------------------------------------ the end

    def stop(self, timeout: float = 10) -> None:
        """Stop the pool within `timeout` seconds, then the loop; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            within(timeout + self._patience, lambda: self.pool.stop(time.monotonic() + timeout), "stop")
            if self.thread.ident is not None:
                assert self._main_done.wait(self._patience), "run_main did not return"
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        if self.thread.ident is not None:
            self.loop.stop()
            self.thread.join(self._patience)
        if self.thread.is_alive():
            self.problems.append("the loop does not run")
        else:
            self.loop.close()

    def abort(self) -> None:
        """Stop without waiting for running jobs, after a test has failed."""
        with contextlib.suppress(Exception):
            if not self._closed and self.thread.is_alive():
                self.kill()
        with contextlib.suppress(Exception, AssertionError):
            self.stop(0.0)

    def complaints(self) -> str:
        """Return the first broken promises and errors of the loop, for messages."""
        return (
            "; ".join([*self.problems[:5], *(repr(error) for error in self.errors[:5])]) or "no promise broken so far"
        )

    def check(self) -> None:
        """Fail if a promise was broken or the loop had an error."""
        assert not self.problems, self.problems[:5]
        assert not self.errors, self.errors

    def __enter__(self) -> Harness:
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.stop()
            self.check()
        else:
            self.abort()
