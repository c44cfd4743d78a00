"""The asyncio pool: `async def` tasks side by side on one event loop, other tasks on threads beside it.

1. The event loop has a thread of its own. It takes jobs from one queue while fewer than `concurrency` are running.
2. A coroutine runs as an asyncio task with a context of its own. Limits and termination reach it where it awaits; one
   that swallows its cancellation is given up, and its slot goes to another job.
3. A task that is not a coroutine gets a thread, made when there is none idle, so that it never blocks the loop.
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
from framework_pools._slot import InProcessSlot

#: Seconds for the loop's thread to come up.
_START: Final = 10.0


class LoopSlot(InProcessSlot):
    """A place on the event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name)
        self._loop = loop
        self._call = Call()

    async def take(self, workload: AsyncWorkload, job: Job) -> Outcome | BaseException:
        """Run `job`."""
        self.ident = threading.get_ident()
        self._call = Call()
        self.since = monotonic()
        self.job = job
        try:
            return await workload.arun(job, self._call)
        except BaseException as error:  # noqa: BLE001 - an interrupt of ours, or a defect: either way the job has ended
            return error
        finally:
            with self._lock:
                self.job = None

    def _throw(self, exception: type[BaseException]) -> None:
        self._loop.call_soon_threadsafe(self._call.interrupt, exception)


class AsyncioPool(InProcessPool):
    """Runs coroutines on an event loop."""

    traits: ClassVar[PoolTraits] = PoolTraits(
        async_tasks=True, soft_limit=True, hard_limit=True, terminate=True, resize=True, restart=True
    )

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self.size = max(1, context.concurrency)
        self._sync: SimpleQueue[Job | None] = SimpleQueue()
        #: Beside the loop's; those that were given up are not among them.
        self._threads: dict[InProcessSlot, threading.Thread] = {}
        self._count = 0
        #: A coroutine was given up: the event loop may not come to its end.
        self._stubborn = False
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        #: Until when `stop` waits for coroutines, by the loop's clock.
        self._deadline = 0.0
        # Used in the loop's thread only.
        self._running = 0
        self._sync_running = 0
        self._sync_seats = 0
        self._free: list[LoopSlot] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Prepare the workload and start the event loop."""
        self.workload()
        self._thread = threading.Thread(target=self._main, name="AsyncioPool", daemon=True)
        self._thread.start()
        if not self._up.wait(_START):
            raise RuntimeError("the event loop of the asyncio pool did not come up")

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            self._context = contextvars.copy_context()
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._aloop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._up.set()
        await self._ended.wait()
        # What still runs has until the deadline of `stop`; whoever leaves before that is not waited for.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, self._deadline - monotonic()))

    # ------------------------------------------------------------ in the worker's loop

    def capacity(self) -> int:
        """Return the free slots, and what short jobs may wait behind those that run."""
        if self.stopping:
            return 0
        return max(0, self.size - self.stuck + self._costs.room(BUDGET) - len(self._jobs))

    def submit(self, jobs: list[Job]) -> None:  # type: ignore[override]
        """Queue `jobs` and have the event loop look."""
        super().submit(jobs)
        self._aloop.call_soon_threadsafe(self._pull)

    def quiesce(self) -> list[int]:
        """Take back what has not begun."""
        taken = super().quiesce()
        if self._up.is_set() and not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._pull)
        return taken

    def replace(self, slot: InProcessSlot) -> None:
        """Give the slot of an abandoned job to another."""
        if isinstance(slot, LoopSlot):
            self._stubborn = True
        else:
            self._threads.pop(slot, None)
        if not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._left, not isinstance(slot, LoopSlot), True)

    def dismiss(self) -> None:
        """Let every thread end after its current job."""
        for _ in self._threads:
            self._sync.put(None)

    def grow(self, n: int) -> None:
        """Let `n` more jobs run at once."""
        self.size += n
        self._aloop.call_soon_threadsafe(self._pull)
        self._events.vacancy()

    def shrink(self, n: int) -> None:
        """Let `n` fewer jobs run at once, as they end; one stays."""
        self.size = max(1, self.size - n)

    # ------------------------------------------------------------ in the event loop

    def _pull(self) -> None:
        """Begin jobs while there are slots."""
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
                slot = self._free.pop() if self._free else self._slot()
                # A copy of the first context: this may be called from within a job that has ended.
                task = self._aloop.create_task(self._run(slot, workload, job), context=self._context.copy())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._sync_running += 1
                if self._sync_running > self._sync_seats:
                    self._add_thread()
                self._sync.put(job)

    def _slot(self) -> LoopSlot:
        slot = LoopSlot("AsyncioPool", self._aloop)
        self._loop.call_soon_threadsafe(self.slots.__setitem__, slot, None)  # the worker's loop reads it
        return slot

    async def _run(self, slot: LoopSlot, workload: AsyncWorkload, job: Job) -> None:
        outcome = await slot.take(workload, job)
        if not slot.abandoned:
            self._free.append(slot)
            self.deliver(slot, job, outcome)
            self._left(False, False)

    def _left(self, sync: bool, abandoned: bool) -> None:
        """Take note that a slot is free again."""
        self._running -= 1
        self._sync_running -= sync
        self._sync_seats -= sync and abandoned
        self._pull()

    # ------------------------------------------------------------ threads beside it

    def _add_thread(self) -> None:
        self._sync_seats += 1
        self._count += 1
        slot = InProcessSlot(f"AsyncioPoolThread-{self._count}")
        self._loop.call_soon_threadsafe(self.slots.__setitem__, slot, None)  # the worker's loop reads it
        thread = threading.Thread(target=self._serve_sync, args=(slot,), name=slot.name, daemon=True)
        self._threads[slot] = thread
        thread.start()

    def _serve_sync(self, slot: InProcessSlot) -> None:
        slot.serve(self, self._sync)

    def deliver(self, slot: InProcessSlot, job: Job, outcome: Outcome | BaseException) -> None:
        """Hand an outcome to the worker's loop, and the slot of a thread to the event loop."""
        super().deliver(slot, job, outcome)
        if not isinstance(slot, LoopSlot) and not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._left, True, False)

    def thread_ids(self) -> list[int]:
        """Return the ids of the event loop's thread and of those beside it."""
        threads = (self._thread, *list(self._threads.values()))
        return [thread.native_id for thread in threads if thread is not None and thread.native_id is not None]

    # ------------------------------------------------------------ the end

    def stop(self, deadline: float) -> None:
        """End the threads and the event loop, until `deadline`; what does not end is left behind."""
        self.retire()
        self._deadline = deadline
        if self._thread is not None and not self._aloop.is_closed():
            self._aloop.call_soon_threadsafe(self._ended.set)
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - monotonic()))
        if self._thread is not None:
            self._thread.join(max(0.0, min(deadline - monotonic(), GRACE if self._stubborn else math.inf)))
        self._thread = None
        self._threads.clear()
        self.release()
