"""Samples the worker's health: whether it is live, and whether it is ready.

1. In the loop, `HealthSampler.update` takes a `HealthSample` every `INTERVAL` seconds.
2. In any thread, `not_live` checks the latest sample; an old sample means that the loop is frozen. `not_ready` also
   checks that the worker consumes.
3. A long task is no problem: a slot is stuck only when its process is stopped, or its task has exceeded a time limit
   that the pool should have enforced. Without stuck slots a worker is not live if tasks wait and none runs or starts.
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
    #: Processes that were stopped (SIGSTOP).
    stopped: frozenset[int]
    active: int
    #: Processes whose task is past its hard limit; job numbers in pools without processes.
    overdue: frozenset[int]
    #: Tasks passed to the pool that have not started.
    reserved: int
    #: Received tasks that wait for a slot.
    backlog: int
    #: Tasks that wait for a rate limit.
    limited: int
    #: Tasks that wait for their eta.
    scheduled: int
    prefetch: int
    unstored: int
    dead_letters: Mapping[str, int]
    #: `time.monotonic` seconds at which a task last started or ended, or no task waited for a slot.
    progress: float

    def stuck(self) -> frozenset[int]:
        """Return the unusable slots: stopped processes, also idle ones, and slots with a task past its limit."""
        return self.stopped | self.overdue | frozenset(pid for pid in self.pids if is_stopped(pid))


def is_stopped(pid: int) -> bool:
    """Return whether process `pid` is stopped (SIGSTOP), not traced by a debugger; False without /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"T"
    except OSError:
        return False


class HealthSampler:
    """Samples the worker and checks the samples."""

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
        #: Seconds without a start after which waiting tasks are a problem: a pool may replace its children meanwhile.
        self._stall_limit = self.patience + settings.worker.proc_alive_timeout
        self._counted = (0, 0)
        self._progress = monotonic()
        #: When each running task with a hard limit was first sampled, by job number.
        self._first_seen: dict[int, float] = {}
        self.sample = self._take()

    # ------------------------------------------------------------ in the loop

    def update(self) -> None:
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
        healthy = sum(1 for request in begun if not {request.seq, request.pid} & (stopped | overdue))
        counted = (self._counters.starts, self._counters.ends)
        if counted != self._counted or healthy or not reserved + backlog:
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
        """Return the processes, or job numbers, whose tasks the pool should have ended."""
        seen: dict[int, float] = {}
        found = []
        for request in begun:
            limit = self._limit(request)
            if limit is not None:
                # Not by `request.started`, which is wall-clock time: the clock may be set.
                since = seen[request.seq] = self._first_seen.get(request.seq, now)
                if now - since > limit + self.patience:
                    found.append(request.pid if processes else request.seq)
        self._first_seen = seen
        return frozenset(found)

    def _limit(self, request: TaskRequest) -> float | None:
        own = request.head.headers.timelimit
        if own is not None and own[0] is not None:
            return own[0]
        return self._hard if request.policy.time_limit is None else request.policy.time_limit

    # ------------------------------------------------------------ in any thread

    def not_live(self) -> list[str]:
        """Return the reasons why the worker is not live; empty: it is."""
        sample = self.sample
        now = monotonic()
        if (age := now - sample.when) > self.patience:
            return [f"the loop has not run for {age:.0f} s"]
        reasons = []
        stuck = sample.stuck()
        if sample.slots and len(stuck) >= sample.slots:
            late = len(sample.overdue)
            reasons.append(
                f"all {sample.slots} slots are stuck: {len(stuck) - late} processes are stopped, "
                f"{late} tasks are past their time limit"
            )
        if (age := now - sample.progress) > self._stall_limit:
            reasons.append(f"{sample.reserved + sample.backlog} tasks wait, and none has started for {age:.0f} s")
        return reasons

    @property
    def connected(self) -> bool:
        """Whether the worker is connected to the broker."""
        return self._intake.connected

    @property
    def connections(self) -> int:
        """Number of connections to the broker so far."""
        return self._intake.connections

    def not_ready(self) -> list[str]:
        """Return the reasons why the worker is not ready; empty: it is."""
        # Not from the sample, which may be a second old: a probe right after the log line "ready" must succeed. Each
        # check reads a single value, which is safe in any thread.
        fetching = self._intake.fetching
        checks = (
            (not fetching, "the worker stops or is quiet"),
            (fetching and not self.connected, "no connection to the broker"),
            (not len(self._queues), "the worker consumes from no queue"),
            (self._settle.overfull, "the result store is unreachable, and too many results wait for it"),
        )
        return [*self.not_live(), *(text for wrong, text in checks if wrong)]
