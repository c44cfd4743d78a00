"""A slot of an in-process pool: a thread that runs one job after another.

`InProcessSlot.interrupt` raises an exception in the running job: only inside the task's own function, and where no lock
is lost, see `framework.api.interrupt`. The pool asks again while that is not possible.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from framework.api.interrupt import Gate, TaskFrame
from framework.api.pool import AsyncWorkload, Job, Outcome, Workload
from framework.api.thread_interrupt import clear_exception, raise_in_thread

if TYPE_CHECKING:
    from framework_pools._inprocess import InProcessPool


#: Why a job is ended: code and text of its outcome.
Kill = tuple[int, str]


class Interrupt(BaseException):
    """Ends a job at a hard limit or termination; no `Exception`, so that tasks do not catch it by accident."""


class Unfinished(NamedTuple):
    """The end of a job whose workload returned no outcome."""

    error: BaseException
    #: Why the pool ended the job; None: it did not.
    kill: Kill | None
    #: Seconds.
    runtime: float


def _no_frame(_frame: FrameType) -> None:
    """Return None: no workload, no task."""


#: Seconds after which a thread that computes lets another thread go on; the interpreter's default is 0.005.
SWITCH_INTERVAL: Final = 0.001

#: Before the first interrupt.
_CLOSED: Final = Gate(None)


class InProcessSlot:
    """A slot with a thread; all methods except `serve` may be called from the loop."""

    #: How often in a row a job must be found at the taking of a lock to be waiting there, see `Gate`.
    waits_after: ClassVar[int | None] = None

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
        #: The code and text of the running job's outcome, if it was killed.
        self.pending_kill: Kill | None = None
        #: Number of the last job whose soft time limit was handled.
        self.soft_limit_sent = 0
        #: The exception to raise in the running job as soon as that is possible.
        self.pending: type[BaseException] | None = None
        #: An exception was set in the thread, which may not have raised it yet.
        self._sent = False
        self._lock = threading.Lock()
        self._gate = _CLOSED
        self._task_frame: TaskFrame = _no_frame
        self._workload: Workload | None = None
        #: The workload that can interrupt a coroutine in this slot.
        self.awaiting: AsyncWorkload | None = None

    def serve(self, pool: InProcessPool, queue: SimpleQueue[Job | None] | None = None) -> None:
        """Run jobs of `queue`, by default the pool's, in the calling thread until it yields None."""
        self.ident = threading.get_ident()
        self.native_id = threading.get_native_id()
        # The loop waits so long for each thread that computes.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))
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

    def _run(self, workload: Workload, job: Job) -> Outcome | Unfinished:
        outcome: Outcome | BaseException | None = None
        self.since = monotonic()
        if self._workload is not workload:
            self.use(workload)
        try:
            self.job = job
            outcome = workload.run(job)
        except BaseException as error:  # noqa: BLE001 - an interrupt or a defect: either way the job has ended
            outcome = error
        # An exception sent to this job may not have been raised yet: it is raised here, or cleared.
        while True:
            try:
                kill = self._leave_job()
            except BaseException as error:  # noqa: BLE001 - see above
                outcome = outcome or error
            else:
                break
        if isinstance(outcome, Outcome):
            return outcome
        return Unfinished(outcome or Interrupt(), kill, self.elapsed())

    def _leave_job(self) -> Kill | None:
        with self._lock:
            self.job = self.pending = None
            if self._sent:
                self._sent = False
                clear_exception(self.ident)
            kill, self.pending_kill = self.pending_kill, None
            return kill

    def use(self, workload: Workload) -> None:
        """Run jobs of `workload` from now on."""
        self._workload, self._task_frame = workload, workload.task_frame
        self.awaiting = workload if isinstance(workload, AsyncWorkload) else None

    def interrupt(self, seq: int, exception: type[BaseException], kill: Kill | None = None) -> bool:
        """Raise `exception` in job `seq`, or leave it `pending`; return whether the job runs here.

        `kill`: the job gets this outcome if it ends without one.
        """
        with self._lock:
            job = self.job
            if job is None or job.seq != seq:
                return False
            self.pending_kill = kill or self.pending_kill
            self.pending, self._gate = exception, Gate(self.waits_after)
            self._throw(exception)
            return True

    def interrupt_again(self, seq: int) -> bool:
        """Try again to raise what is pending for job `seq`; return whether it is still pending."""
        with self._lock:
            if (job := self.job) is None or job.seq != seq or self.pending is None:
                return False
            self._throw(self.pending)
            return True

    def abandon(self, job: Job) -> Kill | None:
        """Ignore the outcome of the killed `job`, and end the slot after it; return its kill, None if it has ended."""
        with self._lock:
            if self.job is not job:
                return None
            self.abandoned = True
            return self.pending_kill

    def _throw(self, exception: type[BaseException]) -> None:
        """Raise `exception` in the job, and set `pending` to None, if that is possible now."""
        frame = sys._current_frames().get(self.ident)
        if self.awaiting is not None and self.awaiting.interrupt(self.ident, exception, frame):
            self.pending = None
        elif raise_in_thread(self.ident, exception, self._gate, self._task_frame):
            self.pending, self._sent = None, True

    def elapsed(self) -> float:
        """Return the seconds since the job started."""
        return monotonic() - self.since
