"""Base of the pools that run jobs in the worker's process.

1. `InProcessPool` feeds its slots from one queue, and reports started jobs and outcomes to the loop in batches.
2. Applies time limits with one timer, which runs only while jobs have limits.
3. Abandons a slot whose job does not stop: the job gets its outcome, and the slot ends when the job ends.
"""

from __future__ import annotations

import logging
import os
import signal
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, ClassVar, Final

import msgspec

from framework.api.interrupt import retry_delays
from framework.api.loop import Timer
from framework.api.pool import (
    SOFT_TIMED_OUT,
    TERMINATED,
    TIMED_OUT,
    WORKER_LOST,
    Job,
    Outcome,
    Pool,
    PoolContext,
    Workload,
)
from framework.exceptions import SoftTimeLimitExceeded
from framework_pools._costs import BUDGET, Costs
from framework_pools._slot import InProcessSlot, Interrupt, Kill, Unfinished

logger = logging.getLogger(__name__)

#: Seconds that an interrupted job has to end before its thread is abandoned.
GRACE: Final = 0.5
#: Further seconds for one that could not be interrupted in that time, because it takes and releases locks.
_GRACE_PENDING: Final = 1.5
#: Seconds between two checks for started jobs that were not reported.
CHECK_INTERVAL: Final = 0.01


class InProcessPool(Pool):
    """A pool in the worker's process; a subclass provides the slots and their threads."""

    interrupts: ClassVar[tuple[type[BaseException], ...]] = (Interrupt,)
    #: What a slot runs in, for log lines.
    kind: ClassVar[str] = "thread"

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        #: In the order of creation; a dictionary, for fast removal from thousands of greenlets.
        self.slots: dict[InProcessSlot, None] = {}
        #: Number of jobs that may run at once.
        self.size = 1
        #: Number of slots abandoned since the start.
        self.abandoned = 0
        self.stopping = False
        self._loop = context.loop
        self._events = context.events
        self._costs = Costs()
        self._workload: Workload | None = None
        #: Jobs given to the pool and not ended, by number, and the numbers of those reported as started.
        self._jobs: dict[int, Job] = {}
        self._reported: set[int] = set()
        self._done: deque[tuple[Job, Outcome | Unfinished]] = deque()
        self._draining = False
        self._finished = 0
        #: Number of slots that cannot be replaced and still run a job whose outcome was reported.
        self.stuck = 0
        self._check_timer: Timer | None = None
        self._limit_timer: Timer | None = None
        self._limit_due = 0.0
        self._pid = os.getpid()

    @abstractmethod
    def replace(self, slot: InProcessSlot) -> None:
        """Replace the abandoned `slot`; called while the pool stops, too."""

    def workload(self) -> Workload:
        """Return the workload; the first call prepares it."""
        if self._workload is None:
            self._renew()
        assert self._workload is not None
        return self._workload

    def restart(self, imports: Sequence[str] = (), fresh: bool = False) -> None:
        """Create a new workload, for the jobs that begin from now on."""
        self._renew()

    def _renew(self) -> None:
        workload = self.context.workload()
        workload.prepare()
        self._workload = workload

    def release(self) -> None:
        """Release the workload after the last job; harmless when repeated."""
        workload, self._workload = self._workload, None
        if workload is not None:
            workload.release()

    # ------------------------------------------------------------ jobs in

    def capacity(self) -> int:
        """Return how many more jobs of the recent mix the slots can finish in a few milliseconds."""
        if self.stopping:
            return 0
        return max(0, (self.size - self.stuck) * max(1, self._costs.jobs_within(BUDGET)) - len(self._jobs))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue `jobs` for the slots."""
        idle = self.size - len(self._jobs)
        put = self.queue.put
        limited = None
        for job in jobs:
            self._jobs[job.seq] = job
            for limit in (job.soft_limit, job.hard_limit):
                if limit is not None and (limited is None or limit < limited):
                    limited = limit
        begun = [job.seq for job in jobs[: max(0, idle)]]
        if begun:
            self._reported.update(begun)
            self._events.started(begun, self._pid)
        for job in jobs:
            put(job)
        if len(begun) < len(jobs) and self._check_timer is None:
            self._check_timer = self._loop.call_later(CHECK_INTERVAL, self._check_running)
        if limited is not None:
            self._arm(monotonic() + limited)

    def _check_running(self) -> None:
        """Report the queued jobs that have started."""
        self._check_timer = None
        begun = []
        for slot in self.slots:
            job = slot.job
            if job is not None and job.seq in self._jobs and job.seq not in self._reported:
                begun.append(job.seq)
                if slot.elapsed() > BUDGET:
                    self._costs.learn_running(job.task, slot.elapsed())
        if begun:
            self._reported.update(begun)
            self._events.started(begun, self._pid)
        if len(self._reported) < len(self._jobs):
            self._check_timer = self._loop.call_later(CHECK_INTERVAL, self._check_running)

    def quiesce(self) -> list[int]:
        """Take back the jobs that no slot has begun; return their numbers."""
        waiting: list[Job] = []
        leave = 0
        with suppress(Empty):
            while True:
                job = self.queue.get_nowait()
                if job is None:
                    leave += 1
                else:
                    waiting.append(job)
        taken = []
        for job in waiting:
            # Jobs that were reported as started must run.
            if job.seq in self._reported:
                self.queue.put(job)
            else:
                del self._jobs[job.seq]
                taken.append(job.seq)
        for _ in range(leave):
            self.queue.put(None)
        return taken

    # ------------------------------------------------------------ outcomes out

    def deliver(self, slot: InProcessSlot, job: Job, outcome: Outcome | Unfinished) -> None:
        """Pass an outcome to the loop; called in the slot's thread."""
        self._done.append((job, outcome))
        # Needs no lock: the loop clears the flag before it reads the queue, so that no outcome is missed.
        if not self._draining:
            self._draining = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._draining = False
        done = self._done
        begun: list[int] = []
        outcomes: list[Outcome] = []
        jobs, reported, learn = self._jobs, self._reported, self._costs.learn
        for _ in range(len(done)):
            job, result = done.popleft()
            seq = job.seq
            if jobs.pop(seq, None) is None:
                if self.stuck:  # its outcome was reported when its slot was abandoned
                    self.stuck -= 1
                    self._loop.call_soon(self._events.vacancy)
                continue
            outcome = result if isinstance(result, Outcome) else self._outcome_of_unfinished(job, result)
            learn(job.task, outcome.runtime)
            if seq in reported:
                reported.discard(seq)
            else:
                begun.append(seq)
            outcomes.append(outcome)
        self._finished += len(outcomes)
        if begun:
            self._events.started(begun, self._pid)
        if outcomes:
            self._events.finished(outcomes)

    def _outcome_of_unfinished(self, job: Job, end: Unfinished) -> Outcome:
        error, kill, runtime = end
        if kill is not None:
            return self.context.outcome_for(job, *kill, runtime)
        if isinstance(error, SoftTimeLimitExceeded):
            return self.context.outcome_for(job, SOFT_TIMED_OUT, f"{job.soft_limit or 0:g}", runtime)
        # The class only: the error's repr is user code and may fail in the loop.
        text = f"the task ended its {self.kind} with {type(error).__qualname__}, which no task should raise"
        return self.context.outcome_for(job, WORKER_LOST, text, runtime)

    # ------------------------------------------------------------ limits and termination

    def _arm(self, due: float) -> None:
        if self._limit_timer is not None:
            if self._limit_due <= due:
                return
            self._limit_timer.cancel()
        self._limit_due = due
        self._limit_timer = self._loop.call_later(max(0.0, due - monotonic()), self._check_limits)

    def _check_limits(self) -> None:
        self._limit_timer = None
        now = monotonic()
        dues = []
        begun = set()
        for slot in list(self.slots):
            job, since = slot.job, slot.since
            if job is None or job.seq not in self._jobs:
                continue
            begun.add(job.seq)
            if job.soft_limit is not None and slot.soft_limit_sent != job.seq:
                if now >= since + job.soft_limit:
                    slot.soft_limit_sent = job.seq
                    if self._raise(slot, job, SoftTimeLimitExceeded):
                        logger.warning("Soft time limit (%gs) exceeded for %s[%s]", job.soft_limit, job.task, job.id)
                else:
                    dues.append(since + job.soft_limit)
            if job.hard_limit is not None and slot.pending_kill is None:
                if now < since + job.hard_limit:
                    dues.append(since + job.hard_limit)
                elif self._interrupt_job(slot, job, TIMED_OUT, f"{job.hard_limit:g}"):
                    logger.error("Hard time limit (%gs) exceeded for %s[%s]", job.hard_limit, job.task, job.id)
        dues += [
            now + limit
            for job in self._jobs.values()
            if job.seq not in begun
            for limit in (job.soft_limit, job.hard_limit)
            if limit is not None
        ]
        if dues:
            self._arm(min(dues))

    def _interrupt_job(self, slot: InProcessSlot, job: Job, code: int, text: str) -> bool:
        if not self._raise(slot, job, Interrupt, (code, text)):
            return False
        self._loop.call_later(GRACE, self._abandon, slot, job, _GRACE_PENDING)
        return True

    def _raise(self, slot: InProcessSlot, job: Job, exception: type[BaseException], kill: Kill | None = None) -> bool:
        """Raise `exception` in `job` as soon as that is possible; return whether it runs in `slot`."""
        runs = slot.interrupt(job.seq, exception, kill)
        if slot.pending is not None:
            self._raise_later(slot, job, retry_delays())
        return runs

    def _raise_later(self, slot: InProcessSlot, job: Job, delays: Iterator[float]) -> None:
        self._loop.call_later(next(delays), self._raise_again, slot, job, delays)

    def _raise_again(self, slot: InProcessSlot, job: Job, delays: Iterator[float]) -> None:
        if slot.interrupt_again(job.seq):
            self._raise_later(slot, job, delays)

    def _abandon(self, slot: InProcessSlot, job: Job, pending_grace: float) -> None:
        """Report the outcome of an interrupted job that has not ended, and abandon its slot."""
        if slot.pending is not None and pending_grace:
            self._loop.call_later(pending_grace, self._abandon, slot, job, 0.0)
            return
        if job.seq not in self._jobs or slot.abandoned or (kill := slot.abandon(job)) is None:
            return
        self.abandoned += 1
        del self.slots[slot]
        del self._jobs[job.seq]
        if job.seq in self._reported:
            self._reported.discard(job.seq)
        else:
            self._events.started([job.seq], self._pid)
        logger.error(
            "%s[%s] does not stop: its %s %s is abandoned (%d so far)",
            job.task,
            job.id,
            self.kind,
            slot.name,
            self.abandoned,
        )
        outcome = self.context.outcome_for(job, *kill, slot.elapsed())
        self.replace(slot)
        self._events.finished([outcome])

    def terminate(self, seq: int, signum: int = signal.SIGTERM) -> bool:
        """Raise `Interrupt` in job `seq`; return whether it runs."""
        try:
            name = signal.Signals(signum).name
        except ValueError:
            name = str(signum)
        for slot in self.slots:
            job = slot.job
            if job is not None and job.seq == seq and seq in self._jobs:
                return self._interrupt_job(slot, job, TERMINATED, name)
        return False

    def kill(self) -> None:
        """Interrupt every running job, and drop the waiting jobs."""
        self.stopping = True
        self._empty_queue()
        running = set()
        for slot in list(self.slots):
            job = slot.job
            if job is not None and job.seq in self._jobs:
                running.add(job.seq)
                self._interrupt_job(slot, job, TERMINATED, "SIGKILL")
        # Core expects an outcome for every job reported as started, even if no slot has begun it.
        outcomes = [
            self.context.outcome_for(job, TERMINATED, "SIGKILL", 0.0)
            for seq, job in self._jobs.items()
            if seq in self._reported and seq not in running
        ]
        self._jobs = {seq: job for seq, job in self._jobs.items() if seq in running}
        self._reported &= running
        self.end_slots()
        if outcomes:
            self._events.finished(outcomes)

    def retire(self) -> None:
        """Begin to stop: end slots after their current job, without time limits. Harmless when repeated."""
        if not self.stopping:
            self.stopping = True
            self.end_slots()
        self._loop.call_soon_threadsafe(self.cancel_timers)

    def end_slots(self) -> None:
        """End every slot after its current job."""
        for _ in self.slots:
            self.queue.put(None)

    def _empty_queue(self) -> None:
        with suppress(Empty):
            while True:
                self.queue.get_nowait()

    def cancel_timers(self) -> None:
        """Cancel the timers."""
        for timer in (self._check_timer, self._limit_timer):
            if timer is not None:
                timer.cancel()
        self._check_timer = self._limit_timer = None

    def thread_ids(self) -> list[int]:
        """Return the native ids of the threads that run jobs."""
        return [slot.native_id for slot in self.slots if slot.native_id]

    def info(self) -> dict[str, Any]:
        """Return the pool's part of `inspect stats`."""
        threads = self.thread_ids()
        return {
            "implementation": f"{type(self).__module__}:{type(self).__name__}",
            "max-concurrency": self.size,
            "processes": threads,
            "threads": len(threads),
            "abandoned-threads": self.abandoned,
            "max-tasks-per-child": "N/A",
            "put-guarded-by-semaphore": True,
            "timeouts": self.context.timeouts,
            "writes": {
                "total": self._finished,
                "avg": "100.00%" if self._finished else "0.00%",
                "all": "100.00%" if self._finished else "0.00%",
                "raw": str(self._finished),
                "strategy": "fair",
                "inqueues": {"total": 1, "active": int(self.queue.qsize() > 0)},
            },
        }
