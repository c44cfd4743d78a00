"""Contract of a pool: where tasks run.

The core hands a pool `Job`s and gets `Outcome`s back. The pool knows nothing about messages: it carries `Job.payload`
to wherever it runs things and calls the `Workload` there.

Promises
1. Everything but `Workload.run` happens in the loop; `submit` never blocks.
2. Every submitted job ends in exactly one call of `PoolEvents.finished`, also when its process dies or it is
   terminated.
   `PoolEvents.started` comes once before it, when the job begins to run (not merely waits in a pipe).
3. `capacity()` says how many more jobs the pool wants now. Core may submit fewer, never more. A pool asks for more than
   its free slots only as far as that keeps short tasks from waiting behind long ones.
4. After `quiesce` no waiting job starts: jobs that have not started are returned by it and never run.
5. `stop` returns when nothing runs any more or the deadline is over; what was still running is then terminated by
   `kill`.
   Stopping twice, or before `start`, is harmless. A pool that was stopped or killed has a capacity of 0.

`framework.testing.pools` holds a pool to them.
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
    """One task to run. A plain tuple, so that a batch of them can be marshalled."""

    #: Names the job between core and pool; unique within a worker's life.
    seq: int
    payload: Payload
    #: Task name and id, for log lines and decisions that need no decoding.
    task: str
    id: str
    #: Seconds; None: no limit.
    soft_limit: float | None
    hard_limit: float | None
    #: Somebody wants to know what a success returned: `Outcome.note` of it too.
    wants_result_repr: bool = False


# How a job ended. Small ints: they cross a pipe by the thousand.
SUCCESS: Final = 0
FAILURE: Final = 1
RETRY: Final = 2
IGNORED: Final = 3
REJECTED: Final = 4
#: `Reject(requeue=True)`.
REQUEUED: Final = 5
#: Expired or revoked where it was about to run.
REVOKED: Final = 6
#: The message cannot become a call (undecodable body, wrong shape): a dead letter.
INVALID: Final = 7
#: The pool's own verdicts, made with `PoolContext.outcome_for`.
TIMED_OUT: Final = 8
WORKER_LOST: Final = 9
TERMINATED: Final = 10
#: A failure that is the soft time limit's `SoftTimeLimitExceeded`, which the task let pass.
SOFT_TIMED_OUT: Final = 11


class Outcome(NamedTuple):
    """How a job ended. A plain tuple, so that a batch of them can be marshalled."""

    seq: int
    #: One of the constants of this module.
    code: int
    #: Seconds from start to end.
    runtime: float
    #: What the result store keeps, already encoded; None: nothing to store.
    document: bytes | None = None
    #: For logs and events: repr of the result or of the exception; "" when nobody asked. Of an INVALID job: what is
    #: wrong, as ``reason: text``.
    note: str = ""
    #: For events: the traceback; of a TERMINATED job the signal. "" when nobody asked.
    traceback: str = ""


#: ``(code, seconds or signal or exit code, what happened)`` -> Outcome; see `PoolContext.outcome_for`.
OutcomeFor: TypeAlias = Callable[[Job, int, str, float], Outcome]


class Workload(Protocol):
    """What a pool runs. One instance a process, shared by its threads and greenlets."""

    def prepare(self) -> None:
        """Called once in every process that runs jobs, after a fork, before the first job."""

    def run(self, job: Job) -> Outcome:
        """Run `job` to its end.

        Raises nothing but `BaseException`s that the pool itself threw in; those in its `task_errors` fail the job.
        """

    def release(self) -> None:
        """Called once in every process that ran jobs, before it exits."""


@runtime_checkable
class AsyncWorkload(Workload, Protocol):
    """A workload that also runs coroutines, where a pool has an event loop for them."""

    def runs_async(self, task: str) -> bool:
        """Say whether jobs of the task called `task` are coroutines, to be run by `arun`; `run` can run them too."""

    async def arun(self, job: Job, call: Call) -> Outcome:
        """Run `job` to its end in the asyncio task that awaits this; `call` is what interrupts it."""

    def interrupt(self, thread: int, exception: type[BaseException], frame: FrameType | None = None) -> bool:
        """Have `exception` end the coroutine that `run` is running in `thread`, where it awaits.

        Called from another thread, or in a signal handler with the interrupted `frame`. False: there is none, or it is
        in code of its own that does not await; the pool then raises the exception there itself.
        """


class PoolTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool can do; core refuses at start, in words, what a trait rules out."""

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
    """What a pool tells the core; called in the loop only."""

    def started(self, seqs: Sequence[int], pid: int) -> None:
        """These jobs have begun to run in process `pid`."""

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """These jobs have ended."""

    def vacancy(self) -> None:
        """`capacity` has grown without a job having finished (a child came up, the pool grew)."""


class PoolContext(msgspec.Struct, kw_only=True):
    """What core gives a pool."""

    loop: Loop
    events: PoolEvents
    #: Slots: processes, threads or greenlets.
    concurrency: int
    #: The workload of this process; built when first called (a pool of processes never calls it).
    workload: Callable[[], Workload]
    #: How to build the workload elsewhere: pass it to `framework.api.workload.load` in a fresh interpreter, once the
    #: entries of its ``path`` are in front of `sys.path`. JSON-able.
    recipe: Mapping[str, Any]
    #: Builds the outcome of a job that the pool had to end itself: ``outcome_for(job, code, text, runtime)`` with
    #: TIMED_OUT (text: the limit in seconds), WORKER_LOST (text: what happened) or TERMINATED (text: the signal).
    outcome_for: OutcomeFor
    #: Node name, for process titles and log lines.
    hostname: str
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    #: Seconds to wait for a child to come up.
    start_timeout: float = 10.0
    start_method: str = "fork"
    #: The worker's own time limits in seconds, for tasks that have none of theirs; None: none. For `info` alone: what
    #: holds for a job is in the `Job`.
    soft_limit: float | None = None
    hard_limit: float | None = None

    @property
    def verdict(self) -> OutcomeFor:
        """The former name of `outcome_for`."""
        return self.outcome_for

    @property
    def timeouts(self) -> list[float]:
        """The worker's own time limits as `Pool.info` tells them: ``[soft, hard]``, 0 for none."""
        return [self.soft_limit or 0, self.hard_limit or 0]


class Pool(Plugin, ABC):
    """A pool's driver. Making one starts nothing."""

    traits: ClassVar[PoolTraits]
    #: What a task may let out that is no `Exception`: the time-outs of a green library, for example. It fails the task.
    #: Not what the pool itself ends a job with.
    task_errors: ClassVar[tuple[type[BaseException], ...]] = ()

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        self.context = context
        self.options: Any = options

    @classmethod
    def patch(cls) -> None:
        """Replace what the pool needs replaced in the standard library.

        Called in the main thread once the pool is chosen, before `preload`, and before the application or a transport
        is imported. The pool's own module has been: it must not have taken by name what is replaced now. Harmless when
        it has been done already, by the application for example.
        """

    @classmethod
    def patched(cls) -> bool:
        """Say whether everything is replaced that the pool needs replaced; core refuses a pool for which it is not."""
        return True

    @classmethod
    def preload(cls, start_method: str, modules: Sequence[str]) -> None:
        """Called in the main thread once the pool is chosen, before the application is imported.

        A pool of processes may start one here by `start_method`, to have it import `modules`, which every process that
        runs jobs needs besides the application. Nothing else of the worker is known yet, and another pool may still be
        chosen in code: what is not claimed by `prestart` must end with this process.

        Called again, in the loop, when a fresh `restart` is likely to follow soon.
        """

    def prestart(self) -> None:
        """Called in the main thread before any other thread exists (start a fork server here)."""

    @abstractmethod
    def start(self) -> None:
        """Called in the loop; slots may come up later and are announced by `PoolEvents.vacancy`."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Run `jobs`, soon; at most as many as `capacity` said."""

    @abstractmethod
    def capacity(self) -> int:
        """Return how many more jobs the pool wants now (>= 0)."""

    def run_main(self) -> None:
        """Run jobs in the main thread until `stop` or `kill`; called if the trait `main_thread` is set."""

    @abstractmethod
    def quiesce(self) -> list[int]:
        """Take back the jobs that have not started; return their `seq`s. Running ones go on. Harmless when repeated."""

    @abstractmethod
    def stop(self, deadline: float) -> None:
        """Called outside the loop, when the loop has seen every job end: end the slots by loop time `deadline`."""

    @abstractmethod
    def kill(self) -> None:
        """End everything at once.

        Called in the loop; running jobs are reported as TERMINATED where that can be told.
        """

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return the pool's part of `inspect stats`, with at least these keys.

        ``implementation`` ("module:Class"), ``max-concurrency``, ``processes`` (pids, or the system's ids of threads),
        ``max-tasks-per-child``, ``put-guarded-by-semaphore``, ``timeouts`` (`PoolContext.timeouts`), ``writes``: how
        the jobs were spread over the processes, ``total``, ``avg`` and ``all`` (shares), ``raw`` (numbers).
        """

    def grow(self, n: int) -> None:
        """Add `n` slots (trait `resize`)."""
        raise NotImplementedError(f"the pool {type(self).__name__} cannot be resized")

    def shrink(self, n: int) -> None:
        """Remove `n` slots, idle ones first, none below one slot (trait `resize`)."""
        raise NotImplementedError(f"the pool {type(self).__name__} cannot be resized")

    def terminate(self, seq: int, signal: int) -> bool:
        """End the running job `seq`, and no other; return whether it was running (trait `terminate`)."""
        raise NotImplementedError(f"the pool {type(self).__name__} cannot terminate a task")

    def restart(self, imports: Sequence[str] = (), fresh: bool = False) -> None:
        """Replace every slot after its current job, and go on taking jobs meanwhile (trait `restart`).

        Slots made from then on, also those that replace others later, have imported the modules `imports`. `fresh`:
        they run the code that is on disk now, else the code that the pool has run so far. Core has imported or
        reloaded the same modules in the worker's process before it calls: a pool that runs its jobs there has only
        to make its workload anew.
        """
        raise NotImplementedError(f"the pool {type(self).__name__} cannot be restarted")
