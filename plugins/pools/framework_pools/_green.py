"""What the green pools share: a greenlet for every running job, all of them in the one thread of the loop.

1. `GreenPool` begins a job as soon as fewer than `size` run, each in a greenlet of its own; the others wait in order.
   A job that ends brings in the next through the hub, so that the loop gets its turn in between.
2. Outcomes, and which jobs have begun, reach the loop in bursts, as in every pool of this package.
3. `GreenSlot.interrupt` asks the hub to raise an exception in the job's greenlet. The hub looks once more whether the
   job is still in it, and since all is one thread the answer holds: the exception cannot hit anything else.
4. A job that a hard limit or a termination has struck gets that verdict also if it swallowed the exception and went on
   to an end. One that does not end is left to itself, and no longer counts.

Nothing here can interrupt code that does not wait: while a task computes, or blocks in C, no other greenlet runs.
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

from framework.api.pool import Job, Outcome, PoolContext
from framework_pools._costs import BUDGET
from framework_pools._inprocess import LOOK, InProcessPool
from framework_pools._slot import InProcessSlot, Interrupt

#: Runs ``function(*args)`` in the hub, before the hub waits again.
InHub = Callable[..., object]


class GreenSlot(InProcessSlot):
    """One job's place: a greenlet that ends with it."""

    def __init__(self, name: str, job: Job, in_hub: InHub) -> None:
        super().__init__(name)
        self.job = job
        self.since = monotonic()
        self.struck = False
        self.greenlet: Any = None
        self._in_hub = in_hub

    def _throw(self, exception: type[BaseException]) -> None:
        self._in_hub(self._strike, exception)

    def _strike(self, exception: type[BaseException]) -> None:
        # In the hub: the greenlet stands still, somewhere in its job, if it has not left it.
        if self.job is None:
            return
        if not self.greenlet:
            # It has not begun; thrown now, the exception would end it before anything could tell.
            self._in_hub(self._strike, exception)
            return
        self.struck = self.struck or exception is Interrupt
        self.greenlet.throw(exception)


class GreenPool(InProcessPool):
    """Everything but how a library makes its greenlets."""

    kind: ClassVar[str] = "greenlet"

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self.size = max(1, context.concurrency)
        self._waiting: deque[Job] = deque()
        #: Begun, and not yet reported.
        self._begun: list[int] = []
        self._count = 0
        self._idle = threading.Event()
        self._idle.set()

    @abstractmethod
    def spawn(self, function: Callable[[GreenSlot], object], slot: GreenSlot) -> Any:
        """Return a greenlet that is going to run ``function(seat)``, soon and not at once."""

    @abstractmethod
    def in_hub(self, function: Callable[..., object], *args: Any) -> object:
        """Have ``function(*args)`` called by the hub, soon and not at once."""

    def start(self) -> None:
        """Prepare the workload; greenlets come with the jobs."""
        self.workload()

    # ------------------------------------------------------------ jobs in

    def capacity(self) -> int:
        """Return how many more jobs there is room for: a slot each, or more if they take a few milliseconds in all."""
        if self.stopping:
            return 0
        return max(0, max(self.size, self._costs.room(BUDGET)) - len(self._jobs))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Begin `jobs`, as far as there are slots; the rest waits."""
        limits = [limit for job in jobs for limit in (job.soft_limit, job.hard_limit) if limit is not None]
        self._jobs.update((job.seq, job) for job in jobs)
        self._waiting.extend(jobs)
        self._fill()
        begun, self._begun = self._begun, []
        if begun:
            self._reported.update(begun)
            self._events.started(begun, self._pid)
        if self._waiting and self._look_timer is None:
            self._look_timer = self._loop.call_later(LOOK, self._look)
        if limits:
            self._arm(monotonic() + min(limits))

    def _fill(self) -> None:
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
        outcome: Outcome | BaseException
        try:
            outcome = self.workload().run(job)
        except BaseException as error:  # noqa: BLE001 - an interrupt of ours, or a defect: either way the job has ended
            outcome = error
        slot.job = None
        if slot.abandoned:
            return
        del self.slots[slot]
        self.deliver(slot, job, Interrupt() if slot.struck else outcome)
        self._fill()

    def _look(self) -> None:
        """Take note of jobs that run for long while others wait."""
        self._look_timer = None
        if not self._waiting:
            return
        for slot in self.slots:
            if (job := slot.job) is not None and slot.elapsed() > BUDGET:
                self._costs.surprise(job.task, slot.elapsed())
        self._look_timer = self._loop.call_later(LOOK, self._look)

    def quiesce(self) -> list[int]:
        """Take back what waits."""
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
        """Give the slot of a job that was left to itself to the next."""
        self._fill()
        self._loop.call_soon(self._drain)

    def _empty_queue(self) -> None:
        self._waiting.clear()

    def dismiss(self) -> None:
        """Do nothing: greenlets end with their jobs."""

    # ------------------------------------------------------------ slots

    def grow(self, n: int) -> None:
        """Add `n` slots."""
        self.size += n
        self._fill()
        self._loop.call_soon(self._drain)
        self._events.vacancy()

    def shrink(self, n: int) -> None:
        """Remove `n` slots; jobs that run in them go on to their end. One slot stays."""
        self.size = max(1, self.size - n)

    def stop(self, deadline: float) -> None:
        """Wait, until `deadline`, for what runs; what does not end is left behind, and ends with the process."""
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
