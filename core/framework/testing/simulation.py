"""Simulates how an autoscaler scales a pool for a list of tasks, without running them.

1. Simulates the tasks (time of sending, run time) in one queue and one worker, event by event.
2. Calls the autoscaler at the times and with the observations of the worker's driver; the shrink delay and the prefetch
   limit are the worker's own code.
3. Sums up the cost: slot-seconds, waits, changes of size.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from framework._config.autoscale import Range
from framework.api.autoscaler import Autoscaler, Machine, Observation
from framework.worker.autoscaler.driver import APART, SOON, period
from framework.worker.autoscaler.shrink_delay import ShrinkDelay
from framework.worker.intake.capacity import Prefetch

#: Seconds of the load average.
_LOAD_WINDOW: Final = 60.0


class SimulatedTask(NamedTuple):
    """One task: seconds from the start of the simulation to its sending, and its run time (s)."""

    sent: float
    runs: float


class SimulatedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The simulated machine and the load of its tasks."""

    cpus: int = 4
    #: Share of a CPU that a running task uses.
    cpu_share: float = 1.0
    memory_mib: int = 8192
    #: Memory of a slot (MiB).
    slot_mib: int = 128
    #: Seconds until a new slot takes tasks.
    startup: float = 0.05


class SimulationSample(NamedTuple):
    """The simulated worker at one time."""

    time: float
    size: int
    running: int
    waiting: int


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a simulation. Times are in seconds."""

    tasks: int
    duration: float
    #: Slots, summed up over the time; a removed slot counts until its task has ended.
    slot_seconds: float
    #: Share of the slot-seconds in which tasks ran.
    used: float
    #: Slot-seconds of a pool that always has the largest size.
    fixed_slot_seconds: float
    wait_mean: float
    wait_p99: float
    wait_max: float
    largest_size: int
    ups: int
    downs: int
    samples: list[SimulationSample]


class Simulation:
    """A simulation of one pool, one queue and one autoscaler."""

    def __init__(
        self,
        decider: Autoscaler,
        bounds: Range,
        keepalive: float,
        prefetch: Prefetch | None = None,
        model: SimulatedLoad | None = None,
    ) -> None:
        self._decider = decider
        self._bounds = bounds
        self._floor = bounds.start
        self._keepalive = ShrinkDelay(keepalive)
        self._model = model or SimulatedLoad()
        self._period = period(keepalive)
        self._size = self._floor
        self._prefetch = prefetch or Prefetch("auto", 1)
        self._prefetch.slots = self._prefetch_slots()
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[float, ...]]] = []
        self._order = itertools.count()
        self._queue: deque[SimulatedTask] = deque()
        #: When each running task started.
        self._running: dict[int, float] = {}
        self._starting = 0
        self._unsent = 0
        self._waiting_since: float | None = None
        self._last_check = 0.0
        self._check_due = False
        self._idle_since = 0.0
        self._load = 0.0
        self._waits: list[float] = []
        self._samples: list[SimulationSample] = []
        self._slot_seconds = 0.0
        self._busy_seconds = 0.0
        self._ups = 0
        self._downs = 0

    # ------------------------------------------------------------ time

    def run(self, jobs: Iterable[SimulatedTask]) -> SimulationReport:
        """Simulate `jobs` until the pool has its smallest size again; return the report."""
        for job in jobs:
            self._unsent += 1
            self._at(job.sent, self._arrive, job.sent, job.runs)
        self._at(self._period, self._check)
        self._sample()
        while self._events:
            when, _, callback, arguments = heapq.heappop(self._events)
            passed = when - self._now
            self._slot_seconds += passed * max(self._size, len(self._running))
            self._busy_seconds += passed * len(self._running)
            self._now = when
            callback(*arguments)
            self._feed()
            self._sample()
            if self._is_over():
                break
        return self._report()

    def _at(self, when: float, callback: Callable[..., None], *arguments: float) -> None:
        heapq.heappush(self._events, (when, next(self._order), callback, arguments))

    def _is_over(self) -> bool:
        if self._unsent or self._queue or self._running:
            return False
        # An autoscaler may never shrink the pool again.
        return self._size == self._floor or self._now - self._idle_since > 3 * (self._keepalive.seconds + self._period)

    def _sample(self) -> None:
        sample = SimulationSample(self._now, self._size, len(self._running), len(self._queue))
        if not self._samples or self._samples[-1][1:] != sample[1:]:
            self._samples.append(sample)

    # ------------------------------------------------------------ tasks

    def _arrive(self, sent: float, runs: float) -> None:
        self._unsent -= 1
        self._queue.append(SimulatedTask(sent, runs))

    def _feed(self) -> None:
        while self._queue and len(self._running) < self._size - self._starting:
            job = self._queue.popleft()
            number = next(self._order)
            self._running[number] = self._now
            self._waits.append(self._now - job.sent)
            self._at(self._now + job.runs, self._end, number, job.runs)
        if self._decider.basis == "queue" and self._held() > self._size < self._bounds.largest and not self._check_due:
            self._check_due = True
            self._at(max(self._now + SOON, self._last_check + APART), self._check_soon)

    def _end(self, number: int, runs: float) -> None:
        del self._running[number]
        self._prefetch.learn(runs, 1)
        self._idle_since = self._now

    def _held(self) -> int:
        """Return the number of tasks that the worker holds."""
        return min(len(self._running) + len(self._queue), max(self._prefetch.limit, len(self._running)))

    # ------------------------------------------------------------ size

    def _prefetch_slots(self) -> int:
        return self._bounds.largest if self._decider.basis == "queue" else self._size + 1

    def _check(self) -> None:
        self._at(self._now + self._period, self._check)
        self._scale()

    def _check_soon(self) -> None:
        self._check_due = False
        self._scale()

    def _scale(self) -> None:
        seen = self._observe()
        self._last_check = self._now
        wanted = max(self._floor, min(self._bounds.largest, self._decider.decide(seen)))
        size = self._keepalive.allow(self._now, self._size, wanted)
        change = size - self._size
        if change > 0:
            self._ups += 1
            self._starting += change
            self._waiting_since = None
            self._at(self._now + self._model.startup, self._slots_started, change)
        elif change < 0:
            self._downs += 1
            self._starting = max(0, self._starting + change)
        self._size = size
        self._prefetch.slots = self._prefetch_slots()

    def _slots_started(self, count: int) -> None:
        self._starting = max(0, self._starting - count)

    def _observe(self) -> Observation:
        running = len(self._running)
        waiting = self._held() - running
        if not waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self._now
        learned = self._prefetch.runtime
        age = self._now - sum(self._running.values()) / running if running else 0.0
        return Observation(
            size=self._size,
            smallest=self._bounds.smallest,
            largest=self._bounds.largest,
            running=running,
            waiting=waiting,
            runtime=None if learned is None else max(learned, age),
            backed_up=0.0 if self._waiting_since is None else self._now - self._waiting_since,
            machine=self._machine() if self._decider.basis == "machine" else None,
        )

    def _machine(self) -> Machine:
        model = self._model
        passed = self._now - self._last_check
        busy = len(self._running) * model.cpu_share / model.cpus
        self._load += (busy - self._load) * (1 - math.exp(-passed / _LOAD_WINDOW))
        slots = max(self._size, len(self._running))
        free = max(0, model.memory_mib - slots * model.slot_mib)
        return Machine(load=self._load, memory_free=free, memory_total=model.memory_mib)

    # ------------------------------------------------------------ the end

    def _report(self) -> SimulationReport:
        waits = sorted(self._waits)
        return SimulationReport(
            tasks=len(waits),
            duration=self._now,
            slot_seconds=self._slot_seconds,
            used=self._busy_seconds / self._slot_seconds if self._slot_seconds else 0.0,
            fixed_slot_seconds=self._now * self._bounds.largest,
            wait_mean=sum(waits) / len(waits) if waits else 0.0,
            wait_p99=waits[math.ceil(len(waits) * 0.99) - 1] if waits else 0.0,
            wait_max=waits[-1] if waits else 0.0,
            largest_size=max(sample.size for sample in self._samples),
            ups=self._ups,
            downs=self._downs,
            samples=self._samples,
        )


# ---------------------------------------------------------------- patterns of tasks


def burst(dice: random.Random) -> list[SimulatedTask]:
    """Return fifty tasks of about two seconds at once, again after twenty seconds, and both after a long pause."""
    return [SimulatedTask(start, dice.uniform(1.0, 3.0)) for start in (5.0, 25.0, 145.0, 165.0) for _ in range(50)]


def steady(dice: random.Random) -> list[SimulatedTask]:
    """Return four tasks a second, of about a second each, for five minutes."""
    jobs = []
    now = dice.expovariate(4.0)
    while now < 300.0:
        jobs.append(SimulatedTask(now, dice.uniform(0.5, 1.5)))
        now += dice.expovariate(4.0)
    return jobs


def day(dice: random.Random) -> list[SimulatedTask]:
    """Return a day's tasks of about five seconds: almost none at night, one a second around two in the afternoon."""
    jobs = []
    now = 0.0
    while now < 86_400.0:
        now += dice.expovariate(1.0)
        height = (1 + math.cos((now / 3600 - 14) / 24 * 2 * math.pi)) / 2
        if dice.random() < height**3:
            jobs.append(SimulatedTask(now, dice.uniform(2.0, 8.0)))
    return jobs


PATTERNS: Final[dict[str, Callable[[random.Random], Sequence[SimulatedTask]]]] = {
    "burst": burst,
    "steady": steady,
    "day": day,
}
