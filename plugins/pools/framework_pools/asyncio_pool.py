"""The asyncio pool: runs `async def` tasks concurrently on one event loop, other tasks in threads.

1. Runs the event loop in a thread of its own. It takes jobs from one queue while fewer than `concurrency` run.
2. Runs a coroutine as an asyncio task with a context of its own. Limits and terminations interrupt it where it awaits.
   A coroutine that swallows its cancellation is abandoned, and its slot is free.
3. Runs a task that is not a coroutine in a thread, started if none is idle, so that it never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from queue import Empty, SimpleQueue
from time import monotonic
from typing import ClassVar, Final

import msgspec

from framework.api.coroutine import Call
from framework.api.pool import AsyncWorkload, Job, Outcome, PoolContext, PoolTraits
from framework_pools._costs import BUDGET
from framework_pools._inprocess import GRACE, InProcessPool
from framework_pools._slot import InProcessSlot, Unfinished

#: Seconds in which the event loop must start.
_START_TIMEOUT: Final = 10.0


class LoopSlot(InProcessSlot):
    """A slot on the event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name)
        self._loop = loop
        self._call = Call()

    async def take(self, workload: AsyncWorkload, job: Job) -> Outcome | Unfinished:
        """Run `job`; return its end."""
        self.ident = threading.get_ident()
        self._call = Call()
        self.since = monotonic()
        self.job = job
        outcome: Outcome | BaseException
        try:
            outcome = await workload.arun(job, self._call)
        except BaseException as error:  # noqa: BLE001 - an interrupt or a defect: either way the job has ended
            outcome = error
        kill = self._leave_job()
        return outcome if isinstance(outcome, Outcome) else Unfinished(outcome, kill, self.elapsed())

    def _throw(self, exception: type[BaseException]) -> None:
        self.pending = None
        self._loop.call_soon_threadsafe(self._call.interrupt, exception)


class AsyncioPool(InProcessPool):
    """The asyncio pool: runs coroutines on an event loop, other tasks in threads."""

    traits: ClassVar[PoolTraits] = PoolTraits(
        async_tasks=True, soft_limit=True, hard_limit=True, terminate=True, resize=True, restart=True
    )

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self.size = max(1, context.concurrency)
        self._sync: SimpleQueue[Job | None] = SimpleQueue()
        #: Threads for tasks that are not coroutines, without the abandoned ones.
        self._threads: dict[InProcessSlot, threading.Thread] = {}
        self._count = 0
        #: A coroutine was abandoned, which may keep the event loop from ending.
        self._coroutine_abandoned = False
        self._thread: threading.Thread | None = None
        self._loop_started = threading.Event()
        #: When `stop` no longer waits for coroutines (monotonic seconds).
        self._deadline = 0.0
        # Used in the event loop's thread only.
        self._running = 0
        self._sync_running = 0
        self._sync_slots = 0
        self._free: list[LoopSlot] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Prepare the workload and start the event loop."""
        self.workload()
        self._thread = threading.Thread(target=self._main, name="AsyncioPool", daemon=True)
        self._thread.start()
        if not self._loop_started.wait(_START_TIMEOUT):
            raise RuntimeError(f"the event loop of the asyncio pool did not start within {_START_TIMEOUT:g} s")

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            self._context = contextvars.copy_context()
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._aloop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._loop_started.set()
        await self._ended.wait()
        # Running coroutines may end until the deadline of `stop`.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, self._deadline - monotonic()))

    # ------------------------------------------------------------ in the worker's loop

    def capacity(self) -> int:
        """Return the number of free slots, plus the number of short jobs that may wait."""
        if self.stopping:
            return 0
        return max(0, self.size - self.stuck + self._costs.jobs_within(BUDGET) - len(self._jobs))

    def submit(self, jobs: list[Job]) -> None:  # type: ignore[override]
        """Queue `jobs` and wake the event loop."""
        super().submit(jobs)
        self._aloop.call_soon_threadsafe(self._start_queued)

    def quiesce(self) -> list[int]:
        """Take back the jobs that have not begun; return their numbers."""
        taken = super().quiesce()
        if self._loop_started.is_set() and not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._start_queued)
        return taken

    def replace(self, slot: InProcessSlot) -> None:
        """Free the slot of an abandoned job."""
        if isinstance(slot, LoopSlot):
            self._coroutine_abandoned = True
        else:
            self._threads.pop(slot, None)
        if not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._slot_freed, not isinstance(slot, LoopSlot), True)

    def end_slots(self) -> None:
        """End every thread after its current job."""
        for _ in self._threads:
            self._sync.put(None)

    def grow(self, n: int) -> None:
        """Add `n` slots."""
        self.size += n
        self._aloop.call_soon_threadsafe(self._start_queued)
        self._events.vacancy()

    def shrink(self, n: int) -> None:
        """Remove `n` slots as their jobs end; at least one stays."""
        self.size = max(1, self.size - n)

    # ------------------------------------------------------------ in the event loop

    def _start_queued(self) -> None:
        """Start queued jobs in the free slots."""
        get = self.queue.get_nowait
        while self._running < self.size:
            try:
                job = get()
            except Empty:
                return
            if job is None:
                continue
            self._running += 1
            workload = self.workload()
            if isinstance(workload, AsyncWorkload) and workload.runs_async(job.task):
                slot = self._free.pop() if self._free else self._new_slot()
                # A copy of the first context: the caller may run in the context of another job.
                task = self._aloop.create_task(self._run(slot, workload, job), context=self._context.copy())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._sync_running += 1
                if self._sync_running > self._sync_slots:
                    self._add_thread()
                self._sync.put(job)

    def _new_slot(self) -> LoopSlot:
        slot = LoopSlot("AsyncioPool", self._aloop)
        self._loop.call_soon_threadsafe(self.slots.__setitem__, slot, None)  # the worker's loop reads it
        return slot

    async def _run(self, slot: LoopSlot, workload: AsyncWorkload, job: Job) -> None:
        outcome = await slot.take(workload, job)
        if not slot.abandoned:
            self._free.append(slot)
            self.deliver(slot, job, outcome)
            self._slot_freed(False, False)

    def _slot_freed(self, sync: bool, abandoned: bool) -> None:
        """Count a free slot, and start the next job."""
        self._running -= 1
        self._sync_running -= sync
        self._sync_slots -= sync and abandoned
        self._start_queued()

    # ------------------------------------------------------------ threads

    def _add_thread(self) -> None:
        self._sync_slots += 1
        self._count += 1
        slot = InProcessSlot(f"AsyncioPoolThread-{self._count}")
        self._loop.call_soon_threadsafe(self.slots.__setitem__, slot, None)  # the worker's loop reads it
        thread = threading.Thread(target=self._serve_sync, args=(slot,), name=slot.name, daemon=True)
        thread.start()
        self._threads[slot] = thread  # once it runs: `stop`, in another thread, joins those that are listed

    def _serve_sync(self, slot: InProcessSlot) -> None:
        slot.serve(self, self._sync)

    def deliver(self, slot: InProcessSlot, job: Job, outcome: Outcome | Unfinished) -> None:
        """Pass an outcome to the worker's loop, and report a thread's free slot to the event loop."""
        super().deliver(slot, job, outcome)
        if not isinstance(slot, LoopSlot) and not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._slot_freed, True, False)

    def thread_ids(self) -> list[int]:
        """Return the native ids of the event loop's thread and of the other threads."""
        threads = (self._thread, *list(self._threads.values()))
        return [thread.native_id for thread in threads if thread is not None and thread.native_id is not None]

    # ------------------------------------------------------------ the end

    def stop(self, deadline: float) -> None:
        """End the threads and the event loop; wait until `deadline`. A job that still runs ends with the process."""
        self.retire()
        self._deadline = deadline
        if self._thread is not None and not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._ended.set)
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - monotonic()))
        if self._thread is not None:
            self._thread.join(max(0.0, min(deadline - monotonic(), GRACE if self._coroutine_abandoned else math.inf)))
        self._thread = None
        self._threads.clear()
        self.release()
