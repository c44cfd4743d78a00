"""Runs a pool in a real loop and keeps books on what it reports.

1. `Harness` builds the pool, turns the loop in a thread, and for a pool that wants the main thread turns its `run_main`
   in a thread of its own.
2. `submit` takes payloads and feeds the pool as it says it has room; `wait` waits until every job has ended.
3. `problems` lists every broken promise: a job that ended twice, an end without a beginning, an unknown job.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from framework.api.pool import INVALID, Job, Outcome, Pool, PoolContext
from framework.worker.loop import Loop
from support.pool_workload import factory
from support.wait import wait_for


class Harness:
    def __init__(
        self, pool_type: type[Pool], concurrency: int = 2, recipe: dict[str, Any] | None = None, **context: Any
    ) -> None:
        self.errors: list[BaseException] = []
        self.loop = Loop(self.errors.append)
        self.recipe = {"factory": "support.pool_workload:factory"} | (recipe or {})
        self.jobs: dict[int, Job] = {}
        self.begun: dict[int, tuple[int, float]] = {}
        self.ended: dict[int, Outcome] = {}
        self.ended_at: dict[int, float] = {}
        self.taken_back: set[int] = set()
        self.problems: list[str] = []
        self.vacancies = 0
        self._queue: deque[Job] = deque()
        self._seq = itertools.count(1)
        self._feeding = True
        made = PoolContext(
            loop=self.loop,
            events=self,
            concurrency=concurrency,
            workload=lambda: factory(self.recipe),
            recipe=self.recipe,
            verdict=self.verdict,
            hostname="test@here",
            **context,
        )
        try:
            self.pool = pool_type(made, pool_type.options_type())
        except BaseException:
            self.loop.close()
            raise
        self.thread = threading.Thread(target=self.loop.run, name="loop", daemon=True)
        self.main: threading.Thread | None = None

    def start(self) -> Harness:
        self.pool.prestart()
        self.pool.start()
        self.thread.start()
        if self.pool.traits.main_thread:
            self.main = threading.Thread(target=self.pool.run_main, name="main-of-pool", daemon=True)
            self.main.start()
        return self

    # ------------------------------------------------------------ PoolEvents

    def verdict(self, job: Job, code: int, text: str, runtime: float) -> Outcome:
        return Outcome(job.seq, code, runtime, None, text)

    def started(self, seqs: Sequence[int], pid: int) -> None:
        now = time.monotonic()
        for seq in seqs:
            if seq in self.begun:
                self.problems.append(f"{seq} began twice")
            if seq not in self.jobs or seq in self.taken_back:
                self.problems.append(f"{seq} began but is not the pool's")
            if not pid:
                self.problems.append(f"{seq} began in no process")
            self.begun[seq] = (pid, now)

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        now = time.monotonic()
        for outcome in outcomes:
            seq = outcome.seq
            if seq in self.ended:
                self.problems.append(f"{seq} ended twice")
            if seq not in self.jobs or seq in self.taken_back:
                self.problems.append(f"{seq} ended but is not the pool's")
            if seq not in self.begun and outcome.code != INVALID:
                self.problems.append(f"{seq} ended but never began")
            self.ended[seq] = outcome
            self.ended_at[seq] = now
        self._feed()

    def vacancy(self) -> None:
        self.vacancies += 1
        self._feed()

    # ------------------------------------------------------------ for tests

    def _feed(self) -> None:
        room = min(self.pool.capacity(), len(self._queue))
        if room > 0 and self._feeding:
            self.pool.submit([self._queue.popleft() for _ in range(room)])

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function` in the loop and return what it returns."""
        done = threading.Event()
        box: list[Any] = []

        def run() -> None:
            try:
                box.append(function(*args))
            except BaseException as error:  # noqa: BLE001 - raised again for the test that asked
                box.append(error)
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(10), "the loop does not turn"
        if isinstance(box[0], BaseException):
            raise box[0]
        return box[0]

    def submit(
        self, *payloads: bytes, task: str = "t", soft: float | None = None, hard: float | None = None
    ) -> list[int]:
        """Hand over a job for each payload, as the pool has room."""
        jobs = [Job(next(self._seq), payload, task, f"id-{repr(payload)[:30]}", soft, hard) for payload in payloads]
        for job in jobs:
            self.jobs[job.seq] = job

        def feed() -> None:
            self._queue.extend(jobs)
            self._feed()

        self.loop.call_soon_threadsafe(feed)
        return [job.seq for job in jobs]

    def wait(self, seqs: Iterable[int] | None = None, timeout: float = 20) -> list[Outcome]:
        """Wait until the jobs have ended and return their outcomes."""
        wanted = list(self.jobs if seqs is None else seqs)

        def all_ended() -> bool:
            ended = self.ended
            return all(seq in ended for seq in wanted)

        wait_for(
            all_ended,
            timeout,
            lambda: f"jobs {[seq for seq in wanted if seq not in self.ended][:10]} to end; {self.errors}",
        )
        return [self.ended[seq] for seq in wanted]

    def run(self, *payloads: bytes, timeout: float = 20, **kwargs: Any) -> list[Outcome]:
        return self.wait(self.submit(*payloads, **kwargs), timeout)

    def wait_begun(self, seq: int, timeout: float = 10) -> int:
        """Wait until `seq` is reported to run; returns its process."""
        wait_for(lambda: seq in self.begun, timeout, f"job {seq} to begin; {self.errors}")
        return self.begun[seq][0]

    def quiesce(self) -> list[int]:
        def quiesce() -> list[int]:
            self._feeding = False
            seqs = self.pool.quiesce()
            self.taken_back.update(seqs)
            return seqs

        return list(self.call(quiesce))

    def pids(self) -> list[int]:
        return list(self.call(self.pool.info)["processes"])

    def stop(self, timeout: float = 10) -> None:
        self.pool.stop(time.monotonic() + timeout)
        if self.main is not None:
            self.main.join(10)
            assert not self.main.is_alive(), "run_main did not return"
        if self.thread.is_alive():
            self.loop.stop()
            self.thread.join(10)
        self.loop.close()

    def check(self) -> None:
        """Fail on every broken promise."""
        assert not self.problems, self.problems[:5]
        assert not self.errors, self.errors

    def __enter__(self) -> Harness:
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is None:
            self.check()
