"""The threads pool: runs jobs in threads of the worker's process.

1. Keeps one daemon thread for each slot; all take jobs from one queue.
2. Applies limits and terminations by an exception in the thread. Inside a C function (a long `time.sleep`, a database
   driver) the exception waits until the function returns; a thread that takes too long is abandoned and replaced.
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
    """The threads pool: runs each job in a thread."""

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
        """Start a thread that replaces an abandoned one."""
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
        """End `n` threads, idle ones first, busy ones after their job; at least one stays."""
        leaving = min(n, self.size - 1)
        self.size -= leaving
        for _ in range(leaving):
            # Behind the waiting jobs: the first thread to be idle then ends.
            self.queue.put(None)

    def stop(self, deadline: float) -> None:
        """Wait for the threads until `deadline`; a thread that still runs ends with the process."""
        self.retire()
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - monotonic()))
        self._threads.clear()
        self.release()
