"""The solo pool: one job at a time, in the worker's main thread, as a debugger or a library bound to it may want.

1. `run_main` runs the jobs; the loop turns in another thread, so remote control and limits work while a task runs.
2. An interruption is a signal to the main thread (SIGURG, which nothing else uses and which harms nobody when it comes
   late): unlike an exception set from outside it also ends a `time.sleep`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType
from typing import ClassVar, Final

import msgspec

from framework.api.pool import Job, PoolContext, PoolTraits
from framework_pools._inprocess import InProcessPool
from framework_pools._slot import InProcessSlot

#: Seconds that the main thread waits for a job without looking up: a signal that comes just before it falls asleep
#: does not wake it, and the signal's handler, which only this thread can run, would wait for the next job.
_NAP: Final = 1.0


class MainSeat(InProcessSlot):
    """The main thread's place."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pending: tuple[int, type[BaseException]] | None = None
        self._by_signal = False

    def listen(self) -> None:
        """Take interruptions by signal, if this is a thread that gets signals."""
        self.ident = threading.get_ident()
        self.native_id = threading.get_native_id()
        self._by_signal = threading.current_thread() is threading.main_thread()
        if self._by_signal:
            signal.signal(signal.SIGURG, self._strike)

    def _getter(self, queue: SimpleQueue[Job | None]) -> Callable[[], Job | None]:
        def get() -> Job | None:
            while True:
                with contextlib.suppress(Empty):
                    return queue.get(timeout=_NAP)

        return get

    def _throw(self, exception: type[BaseException]) -> None:
        if not self._by_signal:
            super()._throw(exception)
            return
        assert self.job is not None
        self._pending = (self.job.seq, exception)
        signal.pthread_kill(self.ident, signal.SIGURG)

    def _strike(self, _signum: int, frame: FrameType | None) -> None:
        # Runs between two steps of the main thread, so the job cannot change under it.
        pending, self._pending = self._pending, None
        job = self.job
        if pending is not None and job is not None and job.seq == pending[0]:
            if self.awaiting is not None and self.awaiting.interrupt(self.ident, pending[1], frame):
                return  # a coroutine awaits: it gets the exception there
            raise pending[1]


class SoloPool(InProcessPool):
    """Runs each job in the main thread."""

    traits: ClassVar[PoolTraits] = PoolTraits(
        soft_limit=True, hard_limit=True, terminate=True, restart=True, main_thread=True
    )

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self._slot = MainSeat("MainThread")
        self.slots[self._slot] = None
        #: The main thread is not in `run_main`.
        self._out = threading.Event()
        self._out.set()

    def start(self) -> None:
        """Prepare the workload; jobs run as soon as the main thread is in `run_main`."""
        self.workload()

    def run_main(self) -> None:
        """Run jobs in the calling thread until `stop` or `kill`."""
        self._out.clear()
        try:
            self._slot.listen()
            while not self.stopping:
                self._slot.serve(self)
            self.release()
        finally:
            self._out.set()

    def replace(self, slot: InProcessSlot) -> None:
        """Keep the seat: there is no other main thread. It takes jobs again when it comes out of the one it is in."""
        self.stuck = 1
        slot.abandoned = False
        self.slots[slot] = None

    def stop(self, deadline: float) -> None:
        """Have `run_main` return, and wait for that until `deadline`; harmless when repeated."""
        self.retire()
        if threading.get_ident() != self._slot.ident:
            self._out.wait(max(0.0, deadline - monotonic()))
