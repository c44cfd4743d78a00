"""Prefetch: how many messages the worker holds at a time.

1. A number as `worker_prefetch_multiplier` fixes it at slots x multiplier, as in Celery; 0 is unlimited.
2. ``"auto"`` follows how long tasks take: the worker holds about `HORIZON` seconds of work a slot, at least one
   message a slot, so that no short task waits here behind a long one while another worker is free.
3. Messages held for their eta do not count, up to `worker_eta_task_limit`.
4. `worker_disable_prefetch` is a multiplier of 1: a message is taken when a slot is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Final, Literal

from framework.api.loop import Loop
from framework.worker.dispatch.unknown_tasks import UnknownTasks
from framework.worker.intake.rate_limits import HOLD_MAX, RateLimits
from framework.worker.schedule import Schedule
from framework.worker.settle.settle import Settle
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework._config.settings import WorkerSettings


#: Seconds of work to hold for each slot. A round trip to a broker is a fraction of a millisecond, so this is plenty.
HORIZON: Final = 0.05
#: The most to hold for each slot.
DEPTH_MAX: Final = 256
#: What a broker that pushes is told for "unlimited".
UNLIMITED: Final = 65_535
#: Weight of the newest batch in the moving average of run times.
_WEIGHT: Final = 0.2


class Prefetch:
    """Says how many messages to hold."""

    def __init__(self, multiplier: int | Literal["auto"], slots: int, eta_limit: int | None = None) -> None:
        """`eta_limit`: so many messages at most are held for a later time on top of the others; None: all."""
        self.multiplier = multiplier
        self.slots = slots
        self.eta_limit = eta_limit
        #: Messages held for a later time, on top.
        self.held = 0
        #: Added at run time by remote control.
        self.extra = 0
        # Until a task has run nothing is known, and a long task is the case to be careful with.
        self._average = HORIZON

    @classmethod
    def of(cls, worker: WorkerSettings, slots: int) -> Prefetch:
        """Return what `worker` asks for."""
        return cls(1 if worker.disable_prefetch else worker.prefetch_multiplier, slots, worker.eta_task_limit)

    def hold(self, later: int, others: int) -> None:
        """Hold `later` messages for their eta, and `others` that wait for something else, on top."""
        self.held = (later if self.eta_limit is None else min(later, self.eta_limit)) + others

    def learn(self, runtime: float, count: int) -> None:
        """Take in that `count` tasks took `runtime` seconds in all."""
        mean = runtime / count
        # A task that takes long counts at once; it takes a while of short ones to forget it.
        self._average = mean if mean > self._average else self._average + _WEIGHT * (mean - self._average)

    @property
    def runtime(self) -> float | None:
        """Seconds that a task takes of late, the long ones first; None: none has ended yet."""
        return None if self._average is HORIZON else self._average

    @property
    def depth(self) -> int:
        """Messages to hold for each slot; 0: any number. At 1 none is to wait here while another worker is free."""
        if self.multiplier == "auto":
            return max(1, min(DEPTH_MAX, int(HORIZON / max(self._average, 1e-6))))
        return self.multiplier

    @property
    def limit(self) -> int:
        """The most messages to hold now, those held for later included."""
        depth = self.depth
        return min(UNLIMITED, max(1, self.slots) * depth + self.held + self.extra) if depth else UNLIMITED


# ---------------------------------------------------------------- how many more fit

#: Seconds between two steps of making room for what may be behind tasks that are limited.
_PAUSE: Final = 0.02
#: Most messages of unknown tasks that make room for others while they wait here. With more, the others wait as well.
_UNKNOWN_MAX: Final = 1000


class Capacity:
    """Counts what is here."""

    def __init__(
        self,
        loop: Loop,
        prefetch: Prefetch,
        settle: Settle,
        backlog: Sized,
        rates: RateLimits,
        schedule: Schedule[TaskRequest],
        unknown_tasks: UnknownTasks,
        on_more: Callable[[], object],
    ) -> None:
        """`backlog`, `rates`, `schedule`, `unregistered`: where messages wait. `on_more` is called when more fit."""
        self._loop = loop
        self._prefetch = prefetch
        self._settle = settle
        self._backlog = backlog
        self._rates = rates
        self._schedule = schedule
        #: What waits here for being handed back, as its task is not known, and what is being handed back.
        self._unknown = unknown_tasks.held
        self._handbacks = unknown_tasks.handbacks
        self._on_more = on_more
        #: So many of those that wait for their turn take no room from others.
        self._spared = 0
        self._sparing = False

    def left(self) -> int:
        """Return how many messages fit; less than none when the limit has fallen."""
        if self._settle.overfull:
            return 0
        held = len(self._schedule) + (len(self._rates) if self._rates.buckets else 0)
        unknown = len(self._unknown) + len(self._handbacks)
        return self._prefetch.limit - len(self._settle.running) - len(self._backlog) - held - unknown

    @property
    def changes(self) -> bool:
        """Whether tasks wait for their turn, or did: then `count` is to be called now and then."""
        return bool(self._rates.buckets or self._spared)

    def count(self) -> None:
        """Let what waits for its time leave room for others."""
        waiting = len(self._rates) if self._rates.buckets else 0
        self._spared = min(self._spared, waiting)
        self._prefetch.hold(len(self._schedule), self._spared + min(len(self._unknown), _UNKNOWN_MAX))
        if self._spared < min(waiting, HOLD_MAX) and not self._sparing:
            self._sparing = True
            self._loop.call_later(_PAUSE, self._spare)

    def _spare(self) -> None:
        self._sparing = False
        waiting = len(self._rates)
        if waiting:
            self._spared = min(waiting, HOLD_MAX)
            self._on_more()

    def forget_held(self) -> list[TaskRequest]:
        """Forget what waits for its time or its turn, and return it."""
        held = [*self._rates.clear(), *self._schedule.clear()]
        self._prefetch.hold(0, 0)
        return held
