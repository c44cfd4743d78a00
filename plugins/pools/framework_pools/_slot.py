"""A slot of an in-process pool: a thread that runs one job after another.

`InProcessSlot.interrupt` raises an exception in the running job. A lock keeps the exception from hitting the next job
or the slot's own code.
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
    """Ends a job at a hard limit or termination; no `Exception`, so that tasks do not catch it by accident."""


class InProcessSlot:
    """A slot with a thread; all methods except `serve` may be called from the loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: The running job, and its start (monotonic seconds).
        self.job: Job | None = None
        self.since = 0.0
        self.ident = 0
        #: The thread's id as the system's tools show it; 0: the thread has not started.
        self.native_id = 0
        #: Outcomes of this slot are ignored.
        self.abandoned = False
        #: Why the running job was interrupted: its number, and its outcome's code and text.
        self.pending_kill: tuple[int, int, str] | None = None
        #: Number of the last job whose soft time limit was handled.
        self.soft_limit_sent = 0
        self._lock = threading.Lock()
        #: The workload that can interrupt a coroutine in this slot.
        self.awaiting: AsyncWorkload | None = None

    def serve(self, pool: InProcessPool, queue: SimpleQueue[Job | None] | None = None) -> None:
        """Run jobs of `queue`, by default the pool's, in the calling thread until it yields None."""
        self.ident = threading.get_ident()
        self.native_id = threading.get_native_id()
        get, deliver = self._getter(queue or pool.queue), pool.deliver
        while (job := get()) is not None:
            # Looked up for each job: a restart replaces the workload.
            outcome = self._run(pool.workload(), job)
            if self.abandoned:
                return
            deliver(self, job, outcome)

    def _getter(self, queue: SimpleQueue[Job | None]) -> Callable[[], Job | None]:
        """Return the function that waits for the next job."""
        return queue.get

    def _run(self, workload: Workload, job: Job) -> Outcome | BaseException:
        outcome: Outcome | BaseException | None = None
        self.since = monotonic()
        if self.awaiting is not workload and isinstance(workload, AsyncWorkload):
            self.awaiting = workload
        try:
            self.job = job
            outcome = workload.run(job)
        except BaseException as error:  # noqa: BLE001 - an interrupt or a defect: either way the job has ended
            outcome = error
        # An exception sent to this job may not have been raised yet: it is raised here, or cleared.
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
        """Raise `exception` in job `seq`; return whether the job runs here."""
        with self._lock:
            job = self.job
            if job is None or job.seq != seq:
                return False
            self._throw(exception)
            return True

    def abandon(self, job: Job) -> bool:
        """Ignore the outcome of `job` and end the slot after it; return whether the job was running."""
        with self._lock:
            if self.job is not job:
                return False
            self.abandoned = True
            return True

    def _throw(self, exception: type[BaseException]) -> None:
        if self.awaiting is None or not self.awaiting.interrupt(self.ident, exception):
            _set_async_exc(self.ident, exception)

    def elapsed(self) -> float:
        """Return the seconds since the job started."""
        return monotonic() - self.since
