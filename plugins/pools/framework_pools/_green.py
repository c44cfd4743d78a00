"""Base of the green pools: one greenlet for each running job, all in the loop's thread.

1. `GreenPool` runs up to `size` jobs at once, each in a greenlet of its own; more jobs wait in order. The end of a job
   starts the next through the hub, so that the loop can run in between.
2. Reports started jobs and outcomes to the loop in batches.
3. `GreenSlot.interrupt` has the hub raise an exception in the job's greenlet. The hub first checks that the greenlet is
   still in the job; since all run in one thread, the exception cannot hit anything else.
4. A job interrupted by a hard limit or a termination gets that outcome even if it swallows the exception and succeeds.
   A job that does not end is abandoned, and its slot is free.

Code that does not wait cannot be interrupted: while a task computes, or blocks in C, no other greenlet runs.
"""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, ClassVar

import msgspec

from framework.api.pool import Job, Outcome, PoolContext, Workload
from framework_pools._costs import BUDGET
from framework_pools._inprocess import CHECK_INTERVAL, InProcessPool
from framework_pools._slot import InProcessSlot, Interrupt, Unfinished

#: Schedules ``function(*args)`` in the hub, before the hub waits again.
InHub = Callable[..., object]


class GreenSlot(InProcessSlot):
    """The slot of one job: a greenlet that ends with the job."""

    waits_after = 0  # a suspended greenlet waits

    def __init__(self, name: str, job: Job, in_hub: InHub) -> None:
        super().__init__(name)
        self.job = job
        self.since = monotonic()
        self.interrupted = False
        self.greenlet: Any = None
        self._in_hub = in_hub

    def use(self, workload: Workload) -> None:
        """Run the job of `workload`."""
        self._task_frame = workload.task_frame

    def _throw(self, exception: type[BaseException]) -> None:
        self._in_hub(self._throw_in_hub, exception)

    def _throw_in_hub(self, exception: type[BaseException]) -> None:
        # Runs in the hub: the greenlet is suspended, in its job unless that has ended or not begun.
        frame = self.greenlet.gr_frame
        if self.job is None or frame is None or not self._gate.admits(frame, frame.f_lasti, self._task_frame):
            return
        self.pending = None
        self.interrupted = self.interrupted or exception is Interrupt
        self.greenlet.throw(exception)


class GreenPool(InProcessPool):
    """A pool of greenlets; a subclass starts greenlets with its library."""

    kind: ClassVar[str] = "greenlet"

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self.size = max(1, context.concurrency)
        self._waiting: deque[Job] = deque()
        #: Numbers of jobs that have started and were not reported as started.
        self._begun: list[int] = []
        self._count = 0
        self._idle = threading.Event()
        self._idle.set()

    @abstractmethod
    def spawn(self, function: Callable[[GreenSlot], object], slot: GreenSlot) -> Any:
        """Return a greenlet that will run ``function(slot)``, but not before this returns."""

    @abstractmethod
    def in_hub(self, function: Callable[..., object], *args: Any) -> object:
        """Have the hub call ``function(*args)``, but not before this returns."""

    @abstractmethod
    def replace_hub(self) -> None:
        """Give this thread a new hub, which knows none of its greenlets."""

    def start(self) -> None:
        """Prepare the workload; greenlets are started with the jobs."""
        # The copy of the process that a job makes with `os.fork` must not run the worker and the other jobs, too.
        os.register_at_fork(after_in_child=self.replace_hub)
        self.workload()

    # ------------------------------------------------------------ jobs in

    def capacity(self) -> int:
        """Return how many more jobs may wait or run: one a slot, or more short ones, up to a few milliseconds."""
        if self.stopping:
            return 0
        return max(0, max(self.size, self._costs.jobs_within(BUDGET)) - len(self._jobs))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start `jobs` in the free slots; the rest waits."""
        limits = [limit for job in jobs for limit in (job.soft_limit, job.hard_limit) if limit is not None]
        self._jobs.update((job.seq, job) for job in jobs)
        self._waiting.extend(jobs)
        self._start_waiting()
        begun, self._begun = self._begun, []
        if begun:
            self._reported.update(begun)
            self._events.started(begun, self._pid)
        if self._waiting and self._check_timer is None:
            self._check_timer = self._loop.call_later(CHECK_INTERVAL, self._check_running)
        if limits:
            self._arm(monotonic() + min(limits))

    def _start_waiting(self) -> None:
        waiting, slots = self._waiting, self.slots
        while waiting and len(slots) < self.size:
            job = waiting.popleft()
            self._count += 1
            slot = GreenSlot(f"{self.kind}-{self._count}", job, self.in_hub)
            slots[slot] = None
            self._begun.append(job.seq)
            slot.greenlet = self.spawn(self._serve, slot)
        if slots:
            self._idle.clear()
        else:
            self._idle.set()

    def _serve(self, slot: GreenSlot) -> None:
        job = slot.job
        assert job is not None
        slot.since = monotonic()
        outcome: Outcome | BaseException | Unfinished
        try:
            workload = self.workload()
            slot.use(workload)
            outcome = workload.run(job)
        except BaseException as error:  # noqa: BLE001 - an interrupt or a defect: either way the job has ended
            outcome = error
        slot.job = slot.pending = None
        if slot.abandoned:
            return
        del self.slots[slot]
        if slot.interrupted:
            outcome = Interrupt()
        if not isinstance(outcome, Outcome):
            outcome = Unfinished(outcome, slot.pending_kill, slot.elapsed())
        self.deliver(slot, job, outcome)
        self._start_waiting()

    def _check_running(self) -> None:
        """Raise the expected costs of jobs that run for long while others wait."""
        self._check_timer = None
        if not self._waiting:
            return
        for slot in self.slots:
            if (job := slot.job) is not None and slot.elapsed() > BUDGET:
                self._costs.learn_running(job.task, slot.elapsed())
        self._check_timer = self._loop.call_later(CHECK_INTERVAL, self._check_running)

    def quiesce(self) -> list[int]:
        """Take back the waiting jobs; return their numbers."""
        taken = [job.seq for job in self._waiting]
        self._waiting.clear()
        for seq in taken:
            del self._jobs[seq]
        return taken

    # ------------------------------------------------------------ outcomes out

    def _drain(self) -> None:
        begun, self._begun = [seq for seq in self._begun if seq in self._jobs], []
        if begun:
            self._reported.update(begun)
            self._events.started(begun, self._pid)
        super()._drain()

    def replace(self, slot: InProcessSlot) -> None:
        """Start a waiting job in place of the abandoned one."""
        self._start_waiting()
        self._loop.call_soon(self._drain)

    def _empty_queue(self) -> None:
        self._waiting.clear()

    def end_slots(self) -> None:
        """Do nothing: a greenlet ends with its job."""

    # ------------------------------------------------------------ slots

    def grow(self, n: int) -> None:
        """Add `n` slots."""
        self.size += n
        self._start_waiting()
        self._loop.call_soon(self._drain)
        self._events.vacancy()

    def shrink(self, n: int) -> None:
        """Remove `n` slots as their jobs end; at least one stays."""
        self.size = max(1, self.size - n)

    def stop(self, deadline: float) -> None:
        """Wait for running jobs until `deadline`; a job that still runs ends with the process."""
        self.stopping = True
        self._loop.call_soon_threadsafe(self.cancel_timers)
        self._idle.wait(max(0.0, deadline - monotonic()))
        self.release()

    def info(self) -> dict[str, Any]:
        """Return the pool's part of `inspect stats`."""
        found = super().info()
        del found["threads"]
        found["greenlets"] = len(self.slots)
        found["abandoned-greenlets"] = found.pop("abandoned-threads")
        found["writes"]["inqueues"]["active"] = int(bool(self._waiting))
        return found | {"processes": [os.getpid()]}
