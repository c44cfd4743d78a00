"""Contract of a pool: where tasks run.

Core submits `Job`s to a pool and receives `Outcome`s. The pool does not read messages: it passes `Job.payload` to the
`Workload` of the process, thread or greenlet that runs the job.

Promises
1. Everything but `Workload.run` happens in the loop; `submit` never blocks.
2. Every submitted job ends in exactly one call of `PoolEvents.finished`, also if its process dies or it is terminated.
   `PoolEvents.started` is called once before that, when the job begins to run (not when it enters a pipe).
3. `capacity()` returns how many more jobs the pool accepts now. Core may submit fewer, never more. The capacity exceeds
   the free slots only as far as that keeps short tasks from waiting behind long ones.
4. After `quiesce` no waiting job starts: `quiesce` returns the jobs that have not started, and they never run.
5. `stop` returns when no job runs any more or the deadline is over; `kill` then terminates the jobs still running.
   Stopping twice, or before `start`, is harmless. A pool that was stopped or killed has a capacity of 0.
6. A process that runs jobs leaves TERM, QUIT and HUP to the main process, unless the pool itself has sent them.

`framework.testing.pools` tests these promises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from framework.api.loop import Loop
from framework.api.plugin import Plugin
from framework.message import Payload

if TYPE_CHECKING:
    from framework.api.coroutine import Call


class Job(NamedTuple):
    """One task to run. A plain tuple, so that a batch of jobs can be marshalled."""

    #: Identifies the job between core and pool; unique within a worker's life.
    seq: int
    payload: Payload
    #: Task name and id, readable without decoding the payload.
    task: str
    id: str
    #: Seconds; None: no limit.
    soft_limit: float | None
    hard_limit: float | None
    #: Fill `Outcome.note` with the repr of the result also on success.
    wants_result_repr: bool = False


# How a job ended. Small ints: they cross a pipe by the thousand.
SUCCESS: Final = 0
FAILURE: Final = 1
RETRY: Final = 2
IGNORED: Final = 3
REJECTED: Final = 4
#: `Reject(requeue=True)`.
REQUEUED: Final = 5
#: Expired or revoked immediately before it would have run.
REVOKED: Final = 6
#: The message cannot become a call (undecodable body, wrong shape): a dead letter.
INVALID: Final = 7
#: Outcomes that the pool itself makes, with `PoolContext.outcome_for`.
TIMED_OUT: Final = 8
WORKER_LOST: Final = 9
TERMINATED: Final = 10
#: A failure because the task did not catch `SoftTimeLimitExceeded`.
SOFT_TIMED_OUT: Final = 11


class Outcome(NamedTuple):
    """How a job ended. A plain tuple, so that a batch of outcomes can be marshalled."""

    seq: int
    #: One of the constants of this module.
    code: int
    #: Seconds from start to end.
    runtime: float
    #: The encoded result document; None: nothing to store.
    document: bytes | None = None
    #: For logs and events: repr of the result or of the exception; "" if not requested. For an INVALID job:
    #: ``reason: text``.
    note: str = ""
    #: For events: the traceback, for a TERMINATED job the signal; "" if not requested.
    traceback: str = ""


#: ``(job, code, text, runtime)`` -> Outcome; see `PoolContext.outcome_for`.
OutcomeFor: TypeAlias = Callable[[Job, int, str, float], Outcome]


class Workload(Protocol):
    """Runs jobs inside a pool. One instance per process, shared by its threads and greenlets."""

    def prepare(self) -> None:
        """Called once in every process that runs jobs, after a fork, before the first job."""

    def run(self, job: Job) -> Outcome:
        """Run `job` to its end.

        Raises only the `Pool.interrupts` of its pool; any other exception fails the job.
        """

    def task_frame(self, frame: FrameType) -> FrameType | None:
        """Return the frame of the task's own function, if that has called the code of `frame`, directly or not.

        A pool raises exceptions only there, see `framework.api.interrupt`.
        """

    def release(self) -> None:
        """Called once in every process that ran jobs, before it exits."""


@runtime_checkable
class AsyncWorkload(Workload, Protocol):
    """A workload that also runs coroutines, for pools that have an asyncio event loop."""

    def runs_async(self, task: str) -> bool:
        """Return whether the task called `task` is a coroutine function; both `arun` and `run` can run its jobs."""

    async def arun(self, job: Job, call: Call) -> Outcome:
        """Run `job` to its end in the current asyncio task; `call` can interrupt it."""

    def interrupt(self, thread: int, exception: type[BaseException], frame: FrameType | None = None) -> bool:
        """Raise `exception` in the coroutine that `run` is running in `thread`, at the point where it awaits.

        Called from another thread, or in a signal handler with the interrupted `frame`. Returns False if no coroutine
        runs there, or if it is executing its own code and not awaiting; the pool then raises the exception itself.
        """


class PoolTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool can do; core refuses at start a configuration that needs a missing trait."""

    processes: bool = False
    green: bool = False
    soft_limit: bool = False
    hard_limit: bool = False
    terminate: bool = False
    resize: bool = False
    restart: bool = False
    async_tasks: bool = False
    recycles: bool = False
    #: Jobs run in the main thread: core calls `Pool.run_main` there.
    main_thread: bool = False


class PoolEvents(Protocol):
    """Receives reports of a pool; called in the loop only."""

    def started(self, seqs: Sequence[int], pid: int) -> None:
        """The jobs `seqs` have begun to run in process `pid`."""

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Jobs have ended."""

    def vacancy(self) -> None:
        """`capacity` has grown for another reason than a finished job (a child came up, the pool grew)."""


class PoolContext(msgspec.Struct, kw_only=True):
    """Everything that core passes to a pool."""

    loop: Loop
    events: PoolEvents
    #: Slots: processes, threads or greenlets.
    concurrency: int
    #: The workload of this process; built at the first call (a pool of processes never calls it).
    workload: Callable[[], Workload]
    #: How to build the workload in a fresh interpreter: put the entries of its ``path`` in front of `sys.path`, then
    #: pass it to `framework.api.workload.load`. JSON-able.
    recipe: Mapping[str, Any]
    #: Builds the outcome of a job that the pool ended itself: ``outcome_for(job, code, text, runtime)`` with
    #: TIMED_OUT or SOFT_TIMED_OUT (text: the limit in seconds; the latter if the exception was raised outside of
    #: `Workload.run`), WORKER_LOST (text: what happened) or TERMINATED (text: the signal).
    outcome_for: OutcomeFor
    #: Node name, for process titles and log lines.
    hostname: str
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    #: Seconds to wait for a child to come up.
    start_timeout: float = 10.0
    start_method: str = "fork"
    #: The worker's default time limits in seconds; None: no limit. Only for `info`: the limits of a job are in the
    #: `Job`.
    soft_limit: float | None = None
    hard_limit: float | None = None

    @property
    def verdict(self) -> OutcomeFor:
        """The former name of `outcome_for`."""
        return self.outcome_for

    @property
    def timeouts(self) -> list[float]:
        """The worker's default time limits as `Pool.info` reports them: ``[soft, hard]``, 0: no limit."""
        return [self.soft_limit or 0, self.hard_limit or 0]


class Pool(Plugin, ABC):
    """Base class of pools. Creating a pool starts nothing."""

    traits: ClassVar[PoolTraits]
    #: The exceptions with which the pool itself, or its library, ends a job; not `SoftTimeLimitExceeded`. Any other
    #: exception of a task is a failure of the task, also one that is no `Exception`.
    interrupts: ClassVar[tuple[type[BaseException], ...]] = ()

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        self.context = context
        self.options: Any = options

    @classmethod
    def patch(cls) -> None:
        """Patch the standard library for this pool.

        Called in the main thread once the pool is chosen, before `preload`, and before the application or a transport
        is imported. The pool's own module is imported before, so it must not import patched names with ``from``.
        Harmless when the library is patched already, for example by the application.
        """

    @classmethod
    def patched(cls) -> bool:
        """Return whether the standard library is patched for this pool; if not, core refuses the pool."""
        return True

    @classmethod
    def preload(cls, start_method: str, modules: Sequence[str]) -> None:
        """Called in the main thread once the pool is chosen, before the application is imported.

        A pool of processes may start a process here by `start_method` that imports `modules`, which every process that
        runs jobs needs besides the application. Code may still choose another pool: a process that `prestart` does not
        claim must end with this one.

        Called again, in the loop, if a fresh `restart` is likely to follow soon.
        """

    def prestart(self) -> None:
        """Called in the main thread before any other thread exists (start a fork server here)."""

    @abstractmethod
    def start(self) -> None:
        """Called in the loop; slots that come up later are reported by `PoolEvents.vacancy`."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept `jobs` to run; at most as many as `capacity` returned."""

    @abstractmethod
    def capacity(self) -> int:
        """Return how many more jobs the pool accepts now (>= 0)."""

    def run_main(self) -> None:
        """Run jobs in the main thread until `stop` or `kill`; called if the trait `main_thread` is set."""

    @abstractmethod
    def quiesce(self) -> list[int]:
        """Withdraw the jobs that have not started and return their `seq`s; running jobs continue. May be repeated."""

    @abstractmethod
    def stop(self, deadline: float) -> None:
        """End the slots by loop time `deadline`. Called outside the loop, after the last job has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End everything at once.

        Called in the loop; the pool reports running jobs as TERMINATED if it can.
        """

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return the pool's part of `inspect stats`, with at least these keys.

        ``implementation`` ("module:Class"), ``max-concurrency``, ``processes`` (pids, or the system's ids of threads),
        ``max-tasks-per-child``, ``put-guarded-by-semaphore``, ``timeouts`` (`PoolContext.timeouts`), ``writes``: how
        the jobs were distributed over the processes, ``total``, ``avg`` and ``all`` (shares), ``raw`` (numbers).
        """

    def grow(self, n: int) -> None:
        """Add `n` slots (trait `resize`)."""
        raise NotImplementedError(f"the pool {type(self).__name__} cannot be resized")

    def shrink(self, n: int) -> None:
        """Remove `n` slots, idle ones first; at least one slot stays (trait `resize`)."""
        raise NotImplementedError(f"the pool {type(self).__name__} cannot be resized")

    def terminate(self, seq: int, signal: int) -> bool:
        """Terminate only the job `seq`; return whether it was running (trait `terminate`)."""
        raise NotImplementedError(f"the pool {type(self).__name__} cannot terminate a task")

    def restart(self, imports: Sequence[str] = (), fresh: bool = False) -> None:
        """Replace every slot after its current job, and accept jobs meanwhile (trait `restart`).

        All slots created from now on import the modules `imports`. With `fresh` they run the code that is on disk
        now, else the code that the pool has run so far. Core has imported or reloaded the same modules in the
        worker's process before this call: a pool that runs its jobs there only has to rebuild its workload.
        """
        raise NotImplementedError(f"the pool {type(self).__name__} cannot be restarted")
