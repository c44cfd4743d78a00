"""A seat: one thread that runs one job after another, and can be reached from outside.

`InProcessSlot.interrupt` raises an exception in the job that runs, and is guarded so that the exception can never hit
the next job, or the seat's own code.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from framework.api.pool import AsyncWorkload, Job, Outcome, Workload

if TYPE_CHECKING:
    from framework_pools._inprocess import InProcessPool

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.py_object]
_set_async_exc.restype = ctypes.c_int
_clear_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


class Interrupt(BaseException):
    """Ends a job from outside; not an `Exception`, so that tasks do not catch it by accident."""


class InProcessSlot:
    """One thread's place; everything but `serve` may be called from the loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: The job that runs here, and since when (monotonic seconds).
        self.job: Job | None = None
        self.since = 0.0
        self.ident = 0
        #: The same thread's id as the system's tools show it; 0: the thread has not come up.
        self.native_id = 0
        #: Nothing that still ends here counts.
        self.abandoned = False
        #: Why the running job was interrupted: its seq, the verdict's code and text.
        self.pending_kill: tuple[int, int, str] | None = None
        #: The job whose soft limit has been dealt with.
        self.warned = 0
        self._lock = threading.Lock()
        #: What can reach a coroutine that runs here.
        self.awaiting: AsyncWorkload | None = None

    def serve(self, pool: InProcessPool, queue: SimpleQueue[Job | None] | None = None) -> None:
        """Run jobs of `queue`, else the pool's, in the calling thread until the queue says to leave."""
        self.ident = threading.get_ident()
        self.native_id = threading.get_native_id()
        get, deliver = self._getter(queue or pool.queue), pool.deliver
        while (job := get()) is not None:
            # Asked for each time: a restart puts another workload in its place.
            outcome = self._run(pool.workload(), job)
            if self.abandoned:
                return
            deliver(self, job, outcome)

    def _getter(self, queue: SimpleQueue[Job | None]) -> Callable[[], Job | None]:
        """Return what waits for the next job."""
        return queue.get

    def _run(self, workload: Workload, job: Job) -> Outcome | BaseException:
        outcome: Outcome | BaseException | None = None
        self.since = monotonic()
        if self.awaiting is not workload and isinstance(workload, AsyncWorkload):
            self.awaiting = workload
        try:
            self.job = job
            outcome = workload.run(job)
        except BaseException as error:  # noqa: BLE001 - an interrupt of ours, or a defect: either way the job has ended
            outcome = error
        # An exception that was sent to this job may still be on its way: let it strike here, or call it back.
        while True:
            try:
                self._leave_job()
            except BaseException as error:  # noqa: BLE001 - see above
                outcome = outcome or error
            else:
                return outcome or Interrupt()

    def _leave_job(self) -> None:
        with self._lock:
            self.job = None
            _clear_async_exc(self.ident, None)

    def interrupt(self, seq: int, exception: type[BaseException]) -> bool:
        """Raise `exception` in the job `seq`; return whether it runs here."""
        with self._lock:
            job = self.job
            if job is None or job.seq != seq:
                return False
            self._throw(exception)
            return True

    def abandon(self, job: Job) -> bool:
        """Let nothing count that `job` still does here; return whether it was running. The seat runs no other job."""
        with self._lock:
            if self.job is not job:
                return False
            self.abandoned = True
            return True

    def _throw(self, exception: type[BaseException]) -> None:
        if self.awaiting is None or not self.awaiting.interrupt(self.ident, exception):
            _set_async_exc(self.ident, exception)

    def elapsed(self) -> float:
        """Return for how long the running job has been running, in seconds."""
        return monotonic() - self.since
