"""What pools share that run jobs in threads of the worker's own process.

1. `InProcessPool` feeds its seats, one a thread, from one queue, brings outcomes to the loop in bursts (one wake-up a
   burst), and reports which jobs have begun.
2. It keeps time limits, with one timer and none while no job has a limit.
3. A seat whose job does not stop is abandoned: its job gets the verdict, the seat ends whenever the job lets it.
"""

from __future__ import annotations

import logging
import os
import signal
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, ClassVar, Final

import msgspec

from framework.api.loop import Timer
from framework.api.pool import (
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
from framework_pools._slot import InProcessSlot, Interrupt

logger = logging.getLogger(__name__)

#: Seconds that an interrupted job has to end before its thread is abandoned.
GRACE: Final = 0.5
#: Seconds between two looks at jobs whose beginning has not been reported.
LOOK: Final = 0.01


class InProcessPool(Pool):
    """Everything but where the threads come from."""

    #: What a seat is, for log lines.
    kind: ClassVar[str] = "thread"

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self.queue: SimpleQueue[Job | None] = SimpleQueue()
        #: In the order in which they came; a dictionary, since greenlets come and go by the thousand.
        self.slots: dict[InProcessSlot, None] = {}
        #: Seats wanted; the number of jobs that may run at once.
        self.size = 1
        #: Threads given up on since the start.
        self.abandoned = 0
        self.stopping = False
        self._loop = context.loop
        self._events = context.events
        self._costs = Costs()
        self._workload: Workload | None = None
        #: Given to the pool and not ended, and those among them that core was told have begun.
        self._jobs: dict[int, Job] = {}
        self._reported: set[int] = set()
        self._done: deque[tuple[InProcessSlot, Job, Outcome | BaseException]] = deque()
        self._draining = False
        self._finished = 0
        #: Seats that are still in a job that has had its verdict, and cannot be replaced.
        self.stuck = 0
        self._look_timer: Timer | None = None
        self._limit_timer: Timer | None = None
        self._limit_due = 0.0
        self._pid = os.getpid()

    @abstractmethod
    def replace(self, slot: InProcessSlot) -> None:
        """Called when `slot` was abandoned, also while the pool stops."""

    def workload(self) -> Workload:
        """Return the workload, prepared when first asked for."""
        if self._workload is None:
            self._renew()
        assert self._workload is not None
        return self._workload

    def restart(self, imports: Sequence[str] = (), fresh: bool = False) -> None:
        """Make the workload anew; jobs that begin from now on run in it."""
        self._renew()

    def _renew(self) -> None:
        workload = self.context.workload()
        workload.prepare()
        self._workload = workload

    def release(self) -> None:
        """Tell the workload that no more jobs come; harmless when repeated."""
        workload, self._workload = self._workload, None
        if workload is not None:
            workload.release()

    # ------------------------------------------------------------ jobs in

    def capacity(self) -> int:
        """Return how many more jobs of the recent mix the seats would be through with in a few milliseconds."""
        if self.stopping:
            return 0
        return max(0, (self.size - self.stuck) * max(1, self._costs.room(BUDGET)) - len(self._jobs))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue `jobs` for the seats."""
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
        if len(begun) < len(jobs) and self._look_timer is None:
            self._look_timer = self._loop.call_later(LOOK, self._look)
        if limited is not None:
            self._arm(monotonic() + limited)

    def _look(self) -> None:
        """Report jobs that have begun since they were queued."""
        self._look_timer = None
        begun = []
        for slot in self.slots:
            job = slot.job
            if job is not None and job.seq in self._jobs and job.seq not in self._reported:
                begun.append(job.seq)
                if slot.elapsed() > BUDGET:
                    self._costs.surprise(job.task, slot.elapsed())
        if begun:
            self._reported.update(begun)
            self._events.started(begun, self._pid)
        if len(self._reported) < len(self._jobs):
            self._look_timer = self._loop.call_later(LOOK, self._look)

    def quiesce(self) -> list[int]:
        """Take back what no seat has begun."""
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
            # What core believes to have begun is as good as running: it stays and runs.
            if job.seq in self._reported:
                self.queue.put(job)
            else:
                del self._jobs[job.seq]
                taken.append(job.seq)
        for _ in range(leave):
            self.queue.put(None)
        return taken

    # ------------------------------------------------------------ outcomes out

    def deliver(self, slot: InProcessSlot, job: Job, outcome: Outcome | BaseException) -> None:
        """Hand an outcome to the loop; called by the seat's thread."""
        self._done.append((slot, job, outcome))
        # Set and cleared without a lock: the loop clears it before it looks, so that nothing is left lying.
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
            slot, job, result = done.popleft()
            seq = job.seq
            if jobs.pop(seq, None) is None:
                if self.stuck:  # it had a verdict already, and has ended at last
                    self.stuck -= 1
                    self._loop.call_soon(self._events.vacancy)
                continue
            outcome = result if isinstance(result, Outcome) else self._verdict(slot, job, result)
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

    def _verdict(self, slot: InProcessSlot, job: Job, error: BaseException) -> Outcome:
        runtime = slot.elapsed()
        pending_kill = slot.pending_kill
        if pending_kill is not None and pending_kill[0] == job.seq:
            return self.context.outcome_for(job, pending_kill[1], pending_kill[2], runtime)
        if isinstance(error, SoftTimeLimitExceeded):
            return self.context.outcome_for(job, TIMED_OUT, f"{job.soft_limit or 0:g}", runtime)
        # Its class alone: its own repr may fail, and this is the loop.
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
            if job.soft_limit is not None and slot.warned != job.seq:
                if now >= since + job.soft_limit:
                    slot.warned = job.seq
                    if slot.interrupt(job.seq, SoftTimeLimitExceeded):
                        logger.warning("Soft time limit (%gs) exceeded for %s[%s]", job.soft_limit, job.task, job.id)
                else:
                    dues.append(since + job.soft_limit)
            if job.hard_limit is not None and not (slot.pending_kill and slot.pending_kill[0] == job.seq):
                if now < since + job.hard_limit:
                    dues.append(since + job.hard_limit)
                elif self._condemn(slot, job, TIMED_OUT, f"{job.hard_limit:g}"):
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

    def _condemn(self, slot: InProcessSlot, job: Job, code: int, text: str) -> bool:
        previous, slot.pending_kill = slot.pending_kill, (job.seq, code, text)
        if not slot.interrupt(job.seq, Interrupt):
            slot.pending_kill = previous
            return False
        self._loop.call_later(GRACE, self._abandon, slot, job)
        return True

    def _abandon(self, slot: InProcessSlot, job: Job) -> None:
        """Give up on a job that was interrupted and has not ended, and on its thread."""
        if job.seq not in self._jobs or slot.abandoned or not slot.abandon(job):
            return
        assert slot.pending_kill is not None
        self.abandoned += 1
        del self.slots[slot]
        del self._jobs[job.seq]
        if job.seq in self._reported:
            self._reported.discard(job.seq)
        else:
            self._events.started([job.seq], self._pid)
        logger.error(
            "%s[%s] does not stop: its %s %s is left to itself (%d so far)",
            job.task,
            job.id,
            self.kind,
            slot.name,
            self.abandoned,
        )
        outcome = self.context.outcome_for(job, slot.pending_kill[1], slot.pending_kill[2], slot.elapsed())
        self.replace(slot)
        self._events.finished([outcome])

    def terminate(self, seq: int, signum: int = signal.SIGTERM) -> bool:
        """Raise `Interrupt` in the job `seq`."""
        try:
            name = signal.Signals(signum).name
        except ValueError:
            name = str(signum)
        for slot in self.slots:
            job = slot.job
            if job is not None and job.seq == seq and seq in self._jobs:
                return self._condemn(slot, job, TERMINATED, name)
        return False

    def kill(self) -> None:
        """Interrupt every running job; what was waiting is forgotten."""
        self.stopping = True
        self._empty_queue()
        running = set()
        for slot in list(self.slots):
            job = slot.job
            if job is not None and job.seq in self._jobs:
                running.add(job.seq)
                self._condemn(slot, job, TERMINATED, "SIGKILL")
        # What core believes to have begun needs an end, also if no seat has got as far as that.
        torn = [
            self.context.outcome_for(job, TERMINATED, "SIGKILL", 0.0)
            for seq, job in self._jobs.items()
            if seq in self._reported and seq not in running
        ]
        self._jobs = {seq: job for seq, job in self._jobs.items() if seq in running}
        self._reported &= running
        self.dismiss()
        if torn:
            self._events.finished(torn)

    def retire(self) -> None:
        """Begin to stop: seats end after their current job, and no limit strikes any more. Harmless when repeated."""
        if not self.stopping:
            self.stopping = True
            self.dismiss()
        self._loop.call_soon_threadsafe(self.cancel_timers)

    def dismiss(self) -> None:
        """Let every seat end after its current job."""
        for _ in self.slots:
            self.queue.put(None)

    def _empty_queue(self) -> None:
        with suppress(Empty):
            while True:
                self.queue.get_nowait()

    def cancel_timers(self) -> None:
        """Have nothing of ours left in the loop."""
        for timer in (self._look_timer, self._limit_timer):
            if timer is not None:
                timer.cancel()
        self._look_timer = self._limit_timer = None

    def thread_ids(self) -> list[int]:
        """Return the system's ids of the threads that run jobs."""
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
