"""Vitals: whether this worker lives, and whether it consumes.

1. In the loop, `HealthSampler.look` takes a `HealthSample` of the worker at every beat.
2. In any other thread, `dead` judges the latest sample, and one that is old says that the loop has frozen; `idle` says
   whether it consumes.
3. Long tasks are no illness: a slot is stuck only when its process is stopped, or its task is past a time limit that
   the pool should have enforced. Without either, a worker is ill when tasks wait, none runs, and none begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from framework.api.pool import Pool
from framework.worker.intake.capacity import Prefetch
from framework.worker.intake.intake import Intake
from framework.worker.intake.subscriptions import Subscriptions
from framework.worker.settle.dead_letters import DeadLetters
from framework.worker.settle.settle import Settle
from framework.worker.steps.health.counters import Counters
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework._config.settings import Settings

#: Seconds between two samples.
INTERVAL: Final = 1.0


class HealthSample(NamedTuple):
    """The worker at one moment."""

    #: `time.monotonic` seconds.
    when: float
    slots: int
    pids: tuple[int, ...]
    #: Processes that somebody has stopped (SIGSTOP).
    stopped: frozenset[int]
    active: int
    #: Processes, or where slots are none of their own the numbers of jobs, whose task is past its hard limit.
    overdue: frozenset[int]
    #: Handed to the pool, and not begun.
    reserved: int
    #: Taken in, and waiting for a slot.
    backlog: int
    #: Waiting for their turn under a rate limit.
    limited: int
    #: Waiting for their eta.
    scheduled: int
    prefetch: int
    unstored: int
    dead_letters: Mapping[str, int]
    #: `time.monotonic` seconds at which a task last began or ended, or none waited for a slot.
    progress: float

    def stuck(self) -> frozenset[int]:
        """Return what cannot be used: stopped processes, also idle ones, and what runs a task past its time limit."""
        return self.stopped | self.overdue | frozenset(pid for pid in self.pids if is_stopped(pid))


def is_stopped(pid: int) -> bool:
    """Say whether somebody has stopped process `pid`, as far as the system tells. One under a debugger is not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"T"
    except OSError:
        return False


class HealthSampler:
    """Looks at the worker and judges it."""

    def __init__(
        self,
        pool: Pool,
        intake: Intake,
        settle: Settle,
        prefetch: Prefetch,
        dead_letters: DeadLetters,
        queues: Subscriptions,
        settings: Settings,
        counters: Counters,
    ) -> None:
        self._pool = pool
        self._intake = intake
        self._settle = settle
        self._prefetch = prefetch
        self._dead_letters = dead_letters
        self._queues = queues
        self._counters = counters
        self._hard = settings.task.time_limit
        self.patience = settings.worker.health_patience
        #: A pool that replaces its children takes so long before it begins a task.
        self._standstill = self.patience + settings.worker.proc_alive_timeout
        self._counted = (0, 0)
        self._progress = monotonic()
        #: When each running task that has a hard limit was first seen to run.
        self._seen: dict[int, float] = {}
        self.sample = self._take()

    # ------------------------------------------------------------ in the loop

    def look(self) -> None:
        """Take a new sample."""
        self.sample = self._take()

    def _take(self) -> HealthSample:
        now = monotonic()
        info = self._pool.info()
        running = self._settle.running.values()
        begun = [request for request in running if request.started]
        pids = tuple(info["processes"]) if self._pool.traits.processes else ()
        stopped = frozenset(info.get("stopped-processes", ()))
        overdue = self._overdue(begun, now, processes=bool(pids))
        reserved = len(running) - len(begun)
        backlog = len(self._intake.backlog)
        well = sum(1 for request in begun if not {request.seq, request.pid} & (stopped | overdue))
        counted = (self._counters.starts, self._counters.ends)
        if counted != self._counted or well or not reserved + backlog:
            self._counted = counted
            self._progress = now
        return HealthSample(
            when=now,
            slots=info["max-concurrency"],
            pids=pids,
            stopped=stopped,
            active=len(begun),
            overdue=overdue,
            reserved=reserved,
            backlog=backlog,
            limited=len(self._intake.rates),
            scheduled=len(self._intake.schedule),
            prefetch=self._prefetch.limit,
            unstored=self._settle.unstored,
            dead_letters=dict(self._dead_letters.sent),
            progress=self._progress,
        )

    def _overdue(self, begun: list[TaskRequest], now: float, *, processes: bool) -> frozenset[int]:
        """Return who runs tasks that should have been ended by now."""
        seen: dict[int, float] = {}
        found = []
        for request in begun:
            limit = self._limit(request)
            if limit is not None:
                # Not by the wall clock, in which it was begun: that may be set.
                since = seen[request.seq] = self._seen.get(request.seq, now)
                if now - since > limit + self.patience:
                    found.append(request.pid if processes else request.seq)
        self._seen = seen
        return frozenset(found)

    def _limit(self, request: TaskRequest) -> float | None:
        own = request.head.headers.timelimit
        if own is not None and own[0] is not None:
            return own[0]
        return self._hard if request.policy.time_limit is None else request.policy.time_limit

    # ------------------------------------------------------------ in any thread

    def dead(self) -> list[str]:
        """Return, in words, why this worker does not live; nothing: it does."""
        sample = self.sample
        now = monotonic()
        if (age := now - sample.when) > self.patience:
            return [f"the loop has not turned for {age:.0f} s"]
        reasons = []
        stuck = sample.stuck()
        if sample.slots and len(stuck) >= sample.slots:
            late = len(sample.overdue)
            reasons.append(
                f"all {sample.slots} slots are stuck: {len(stuck) - late} processes are stopped, "
                f"{late} tasks are past their time limit"
            )
        if (age := now - sample.progress) > self._standstill:
            reasons.append(f"{sample.reserved + sample.backlog} tasks wait, and none has begun for {age:.0f} s")
        return reasons

    @property
    def connected(self) -> bool:
        """There is a connection to the broker."""
        return self._intake.connected

    @property
    def connections(self) -> int:
        """Connections over which it has fetched so far."""
        return self._intake.connections

    def idle(self) -> list[str]:
        """Return, in words, why this worker consumes nothing; nothing: it does."""
        # Not from the sample: who has just read that the worker is ready need not wait a second to find it so. Each of
        # these is one look at one value.
        fetching = self._intake.fetching
        checks = (
            (not fetching, "the worker stops, or has been told to be quiet"),
            (fetching and not self.connected, "there is no connection to the broker"),
            (not len(self._queues), "it was told to consume from no queue"),
            (self._settle.overfull, "the result store is away, and too many results wait for it"),
        )
        return [*self.dead(), *(text for wrong, text in checks if wrong)]
