"""The solo pool: runs one job at a time in the worker's main thread, for debuggers and libraries that need it.

1. `run_main` runs the jobs; the loop runs in another thread, so remote control and limits work while a task runs.
2. Interrupts a job by SIGURG to the main thread: unlike an exception set by another thread, a signal also ends a
   `time.sleep`. A late SIGURG has no effect. If the job has taken the signal, the loop's thread sets the exception.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType
from typing import ClassVar, Final

import msgspec

from framework.api.interrupt import REFUSALS_MAX
from framework.api.pool import Job, PoolContext, PoolTraits
from framework_pools._inprocess import InProcessPool
from framework_pools._signals import OwnSignal
from framework_pools._slot import InProcessSlot

#: Most seconds that the main thread waits for a job: a signal just before the wait does not interrupt it, and its
#: handler, which only this thread can run, would wait for the next job.
_WAIT_MAX: Final = 1.0


class MainThreadSlot(InProcessSlot):
    """The slot of the main thread."""

    waits_after = REFUSALS_MAX

    def __init__(self, name: str) -> None:
        super().__init__(name)
        #: None: another thread than the main one runs the jobs.
        self._own_signal: OwnSignal | None = None

    def install_handler(self) -> None:
        """Install the signal handler for interrupts, if this is the main thread."""
        self.ident = threading.get_ident()
        self.native_id = threading.get_native_id()
        if threading.current_thread() is threading.main_thread():
            self._own_signal = OwnSignal(signal.SIGURG, self._raise_pending)

    def _getter(self, queue: SimpleQueue[Job | None]) -> Callable[[], Job | None]:
        def get() -> Job | None:
            while True:
                # Not contextlib.suppress: for each job its two calls cost more than the whole wait.
                try:
                    job = queue.get(True, _WAIT_MAX)
                except Empty:
                    continue
                if job is not None and (job[4] is not None or job[5] is not None) and self._own_signal:
                    self._own_signal.take_back()
                return job

        return get

    def _throw(self, exception: type[BaseException]) -> None:
        if self._own_signal is None or self._own_signal.taken:
            super()._throw(exception)
        else:
            signal.pthread_kill(self.ident, signal.SIGURG)

    def _raise_pending(self, _signum: int, frame: FrameType | None) -> None:
        # Runs in the main thread, so the job cannot change meanwhile.
        pending = self.pending
        if pending is None or frame is None:
            return
        if self.awaiting is not None and self.awaiting.interrupt(self.ident, pending, frame):
            self.pending = None  # the exception is raised where the coroutine awaits
        elif self._gate.admits(frame, frame.f_lasti, self._task_frame):
            self.pending = None
            raise pending


class SoloPool(InProcessPool):
    """The solo pool: runs each job in the main thread."""

    traits: ClassVar[PoolTraits] = PoolTraits(
        soft_limit=True, hard_limit=True, terminate=True, restart=True, main_thread=True
    )

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self._slot = MainThreadSlot("MainThread")
        self.slots[self._slot] = None
        #: Set while `run_main` does not run.
        self._main_returned = threading.Event()
        self._main_returned.set()

    def start(self) -> None:
        """Prepare the workload; jobs run once the main thread calls `run_main`."""
        self.workload()

    def run_main(self) -> None:
        """Run jobs in the calling thread until `stop` or `kill`."""
        self._main_returned.clear()
        try:
            self._slot.install_handler()
            while not self.stopping:
                self._slot.serve(self)
            self.release()
        finally:
            self._main_returned.set()

    def replace(self, slot: InProcessSlot) -> None:
        """Keep the slot, since no other main thread exists; it takes jobs again when its job has ended."""
        self.stuck = 1
        slot.abandoned = False
        self.slots[slot] = None

    def stop(self, deadline: float) -> None:
        """End `run_main`, and wait for its return until `deadline`; harmless when repeated."""
        self.retire()
        if threading.get_ident() != self._slot.ident:
            self._main_returned.wait(max(0.0, deadline - monotonic()))
