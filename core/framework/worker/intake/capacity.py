"""Prefetch limit and free capacity: how many messages the worker holds at a time.

1. A number in `worker_prefetch_multiplier` sets the limit to slots x multiplier, as in Celery; 0 means unlimited.
2. ``"auto"`` follows run times: the worker holds about `WORK_PER_SLOT` seconds of work for each slot, at least one
   message, so that no short task waits here behind a long one while another worker is free.
3. Messages held for their eta come on top, up to `worker_eta_task_limit`.
4. `worker_disable_prefetch` is a multiplier of 1: the worker fetches a message when a slot is free.
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
WORK_PER_SLOT: Final = 0.05
#: The most to hold for each slot.
DEPTH_MAX: Final = 256
#: The prefetch limit that means "unlimited" to a pushing broker: the largest that AMQP can express.
UNLIMITED: Final = 65_535
#: Weight of the newest batch in the moving average of run times.
_WEIGHT: Final = 0.2


class Prefetch:
    """The prefetch limit."""

    def __init__(self, multiplier: int | Literal["auto"], slots: int, eta_limit: int | None = None) -> None:
        """`eta_limit`: the most messages held for their eta on top of the others; None: no limit."""
        self.multiplier = multiplier
        self.slots = slots
        self.eta_limit = eta_limit
        #: Messages that wait for their eta, a rate limit or a known task; added to the limit.
        self.held = 0
        #: Added at run time by remote control.
        self.extra = 0
        # No run time is known yet: start at a depth of 1, which is safe for long tasks.
        self._average = WORK_PER_SLOT

    @classmethod
    def of(cls, worker: WorkerSettings, slots: int) -> Prefetch:
        """Return the prefetch limit that the settings ask for."""
        return cls(1 if worker.disable_prefetch else worker.prefetch_multiplier, slots, worker.eta_task_limit)

    def hold(self, later: int, others: int) -> None:
        """Add to the limit `later` messages held for their eta, and `others` held for another reason."""
        self.held = (later if self.eta_limit is None else min(later, self.eta_limit)) + others

    def learn(self, runtime: float, count: int) -> None:
        """Update the average: `count` tasks took `runtime` seconds in all."""
        mean = runtime / count
        # A long run time counts at once and decays slowly.
        self._average = mean if mean > self._average else self._average + _WEIGHT * (mean - self._average)

    @property
    def runtime(self) -> float | None:
        """Average run time in seconds, quick to rise and slow to fall; None: no task has ended yet."""
        return None if self._average is WORK_PER_SLOT else self._average

    @property
    def depth(self) -> int:
        """Messages to hold for each slot; 0: any number. At 1 no message waits here while another worker is free."""
        if self.multiplier == "auto":
            return max(1, min(DEPTH_MAX, int(WORK_PER_SLOT / max(self._average, 1e-6))))
        return self.multiplier

    @property
    def limit(self) -> int:
        """The most messages to hold now, those held for their eta included."""
        depth = self.depth
        return min(UNLIMITED, max(1, self.slots) * depth + self.held + self.extra) if depth else UNLIMITED


# ---------------------------------------------------------------- free capacity

#: Seconds between two steps that exclude rate-limited requests from the limit.
_EXCLUDE_PAUSE: Final = 0.02
#: The most messages excluded from the limit while they wait here because their task is unknown, or the broker does not
#: accept what follows them; more of them hold up other tasks.
_UNKNOWN_MAX: Final = 1000


class Capacity:
    """Counts free capacity: how many more messages the worker may hold."""

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
        """`on_more` is called when capacity has become free."""
        self._loop = loop
        self._prefetch = prefetch
        self._settle = settle
        self._backlog = backlog
        self._rates = rates
        self._schedule = schedule
        #: Messages of unknown tasks: held until their delay is over, and on their way back to the queue.
        self._unknown = unknown_tasks.held
        self._handbacks = unknown_tasks.handbacks
        self._on_more = on_more
        #: Number of requests under a rate limit that are excluded from the limit.
        self._excluded = 0
        self._excluding = False
        #: Number of tasks excluded because what follows them is not sent yet.
        self._unsent = 0

    def free(self) -> int:
        """Return how many more messages fit; negative after the limit has fallen."""
        if self._settle.overfull:
            return 0
        held = len(self._schedule) + (len(self._rates) if self._rates.buckets else 0)
        unknown = len(self._unknown) + len(self._handbacks) + len(self._settle.unsent)
        return self._prefetch.limit - len(self._settle.running) - len(self._backlog) - held - unknown

    @property
    def changes(self) -> bool:
        """Whether requests wait for a rate limit or for the broker, or did: each tick must then call `count`."""
        return bool(self._rates.buckets or self._excluded or self._unsent != len(self._settle.unsent))

    def count(self) -> None:
        """Exclude the requests that wait for their eta or a rate limit from the limit."""
        waiting = len(self._rates) if self._rates.buckets else 0
        self._excluded = min(self._excluded, waiting)
        self._unsent = len(self._settle.unsent)
        kept = min(len(self._unknown), _UNKNOWN_MAX) + min(self._unsent, _UNKNOWN_MAX)
        self._prefetch.hold(len(self._schedule), self._excluded + kept)
        if self._excluded < min(waiting, HOLD_MAX) and not self._excluding:
            self._excluding = True
            self._loop.call_later(_EXCLUDE_PAUSE, self._exclude)

    def _exclude(self) -> None:
        self._excluding = False
        waiting = len(self._rates)
        if waiting:
            self._excluded = min(waiting, HOLD_MAX)
            self._on_more()

    def forget_held(self) -> list[TaskRequest]:
        """Forget and return the requests that wait for their eta or a rate limit."""
        held = [*self._rates.clear(), *self._schedule.clear()]
        self._prefetch.hold(0, 0)
        return held
