"""The pool of threads: jobs run side by side in the worker's own process.

1. Keeps as many daemon threads as there are slots; they take jobs from one queue.
2. Limits and termination raise an exception in the thread. Code that is inside a C function (a long `time.sleep`, a
   database driver) notices when it returns; a thread that takes too long over it is abandoned and replaced.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import ClassVar

import msgspec

from framework.api.pool import PoolContext, PoolTraits
from framework_pools._inprocess import InProcessPool
from framework_pools._slot import InProcessSlot


class ThreadsPool(InProcessPool):
    """Runs each job in one of a number of threads."""

    traits: ClassVar[PoolTraits] = PoolTraits(
        soft_limit=True, hard_limit=True, terminate=True, resize=True, restart=True
    )

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self.size = max(1, context.concurrency)
        self._threads: dict[InProcessSlot, threading.Thread] = {}
        self._count = 0

    def start(self) -> None:
        """Start the threads."""
        self.workload()
        for _ in range(self.size):
            self._add()

    def _add(self) -> None:
        self._count += 1
        slot = InProcessSlot(f"ThreadPoolWorker-{self._count}")
        self.slots[slot] = None
        thread = threading.Thread(target=self._serve, args=(slot,), name=slot.name, daemon=True)
        self._threads[slot] = thread
        thread.start()

    def _serve(self, slot: InProcessSlot) -> None:
        try:
            slot.serve(self)
        finally:
            if not self.stopping:
                self._loop.call_soon_threadsafe(self._ended, slot)

    def _ended(self, slot: InProcessSlot) -> None:
        self._threads.pop(slot, None)
        self.slots.pop(slot, None)

    def replace(self, slot: InProcessSlot) -> None:
        """Start a thread in the place of an abandoned one."""
        self._threads.pop(slot, None)
        if not self.stopping and len(self.slots) < self.size:
            self._add()

    def grow(self, n: int) -> None:
        """Add `n` threads."""
        self.size += n
        for _ in range(n):
            self._add()
        self._events.vacancy()

    def shrink(self, n: int) -> None:
        """Let `n` threads end, idle ones first, busy ones after their job; one stays."""
        leaving = min(n, self.size - 1)
        self.size -= leaving
        for _ in range(leaving):
            # Behind the jobs that wait: whoever is idle first takes it.
            self.queue.put(None)

    def stop(self, deadline: float) -> None:
        """Let the threads end, until `deadline`; those that do not are left behind, and end with the process."""
        self.retire()
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - monotonic()))
        self._threads.clear()
        self.release()
