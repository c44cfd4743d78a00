"""The autoscaler's driver: keeps the pool at the size that an autoscaler plugin returns, between two bounds.

1. Calls the plugin (`framework.api.autoscaler`) once a second, and soon after more tasks were received than the pool
   has slots.
2. Grows at once; shrinks after the keep-alive time. Logs each change.
3. Adjusts the prefetch limit to the size: a plugin that counts waiting tasks needs tasks that wait.
4. May be subclassed, as in the Workers Guide: `_maybe_scale` then decides, using `qty`, `processes`, the bounds,
   `scale_up` and `scale_down`.

Everything runs in the loop.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from framework._config.autoscale import checked
from framework.api.autoscaler import Autoscaler as Decider
from framework.api.autoscaler import Observation
from framework.api.loop import Loop, Timer
from framework.api.pool import Pool
from framework.worker.autoscaler import system_load
from framework.worker.autoscaler.shrink_delay import ShrinkDelay
from framework.worker.intake.capacity import Prefetch
from framework.worker.intake.intake import Intake
from framework.worker.settle.settle import Settle

if TYPE_CHECKING:
    from framework.worker.task_request import TaskRequest

logger = logging.getLogger(__name__)

#: The most seconds between two checks.
PERIOD: Final = 1.0
#: Seconds from the arrival of waiting tasks to the check, so that a burst causes one change.
SOON: Final = 0.02
#: The fewest seconds between two checks: a new slot needs time until it takes a task.
APART: Final = 0.25


def period(keepalive: float) -> float:
    """Return the seconds between two checks: half the keep-alive time, within `APART` and `PERIOD`."""
    return min(PERIOD, max(APART, keepalive / 2))


class AutoscaleContext(msgspec.Struct, kw_only=True):
    """The parts of the worker that the driver uses."""

    loop: Loop
    intake: Intake
    settle: Settle
    prefetch: Prefetch
    decider: Decider


class AutoscalerDriver:
    """Scales the pool."""

    def __init__(
        self,
        pool: Pool,
        max_concurrency: int,
        min_concurrency: int = 0,
        worker: AutoscaleContext | None = None,
        keepalive: float = 30.0,
        mutex: object = None,
    ) -> None:
        """`keepalive` is in seconds. `mutex` is unused; subclasses written for Celery may pass one."""
        assert worker is not None
        self.pool = pool
        self.max_concurrency = max_concurrency
        self.min_concurrency = min_concurrency
        self.worker = worker
        self.mutex = mutex
        #: Slots of the pool, which starts with the lower bound.
        self.processes = max(1, min_concurrency)
        self._keepalive = ShrinkDelay(keepalive)
        self._period = period(keepalive)
        self._loop = worker.loop
        self._running = worker.settle.running
        self._backlog = worker.intake.backlog
        #: Since when tasks wait and the pool has not grown; None: no task waits.
        self._waiting_since: float | None = None
        self._last_check = 0.0
        self._failure = ""
        self._soon_timer: Timer | None = None
        self._timer: Timer | None = None
        self._adjust_prefetch()

    # ------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Start the checks."""
        self._timer = self._loop.call_later(self._period, self._check)
        if self.worker.decider.basis == "queue":
            self.worker.intake.on_feed = self._on_feed

    def stop(self) -> None:
        """Stop the checks; the pool keeps its size."""
        self.worker.intake.on_feed = None
        for timer in (self._timer, self._soon_timer):
            if timer is not None:
                timer.cancel()

    def _on_feed(self) -> None:
        """Check soon if more tasks were received than the pool has slots."""
        if len(self._running) + len(self._backlog) <= self.processes or self._soon_timer is not None:
            return
        if self.processes < self.max_concurrency:
            delay = max(SOON, self._last_check + APART - self._loop.time())
            self._soon_timer = self._loop.call_later(delay, self._check_soon)

    def _check(self) -> None:
        self._timer = self._loop.call_later(self._period, self._check)
        self._scale()

    def _check_soon(self) -> None:
        self._soon_timer = None
        self._scale()

    def _scale(self) -> None:
        if self.worker.intake.draining:
            return
        self._last_check = self._loop.time()
        try:
            self.maybe_scale()
            self._failure = ""
        except Exception as error:  # the plugin may raise anything, and the pool can keep its size
            # Logged once, not at every check.
            if repr(error) != self._failure:
                logger.exception("The autoscaler failed; the pool stays at %d slots", self.processes)
            self._failure = repr(error)

    # ------------------------------------------------------------ for subclasses

    @property
    def qty(self) -> int:
        """Number of received tasks that run or could run."""
        return len(self._running) + len(self._backlog)

    def maybe_scale(self, req: TaskRequest | None = None) -> None:
        """Scale if needed."""
        self._maybe_scale(req)

    def _maybe_scale(self, req: TaskRequest | None = None) -> bool | None:
        """Decide and scale; return whether the size changed. Subclasses may override it."""
        seen = self.observe()
        wanted = self._within(self.worker.decider.decide(seen))
        return self._resize(self._keepalive.allow(self._loop.time(), self.processes, wanted))

    def scale_up(self, n: int) -> bool:
        """Add `n` slots, as far as the upper bound allows."""
        return self._resize(self._within(self.processes + n))

    def scale_down(self, n: int) -> bool:
        """Remove `n` slots, as far as the lower bound allows and slots are idle."""
        idle = max(0, self.processes - self._running_age()[0])
        return self._resize(self._within(self.processes - min(n, idle)))

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:  # noqa: A002 - the guide's names
        """Change the bounds, and the size with them; return them. Raises `ConfigError`."""
        bounds = checked(self.max_concurrency if max is None else max, self.min_concurrency if min is None else min)
        self.max_concurrency, self.min_concurrency = bounds
        self._resize(self._within(self.processes))
        self._adjust_prefetch()
        return self.max_concurrency, self.min_concurrency

    def info(self) -> dict[str, int]:
        """Return the bounds, size and number of tasks, for `inspect stats`."""
        return {"max": self.max_concurrency, "min": self.min_concurrency, "current": self.processes, "qty": self.qty}

    # ------------------------------------------------------------ observing

    def observe(self) -> Observation:
        """Return the observation for the plugin."""
        now = self._loop.time()
        running, age = self._running_age()
        waiting = self.qty - running
        if not waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        learned = self.worker.prefetch.runtime
        return Observation(
            size=self.processes,
            smallest=self.min_concurrency,
            largest=self.max_concurrency,
            running=running,
            waiting=waiting,
            runtime=None if learned is None else max(learned, age),
            backed_up=0.0 if self._waiting_since is None else now - self._waiting_since,
            machine=system_load.measure() if self.worker.decider.basis == "machine" else None,
        )

    def _running_age(self) -> tuple[int, float]:
        """Return the number of running tasks, and the average seconds since their starts."""
        begun = [item.started for item in self._running.values() if item.started]
        return len(begun), max(0.0, time.time() - sum(begun) / len(begun)) if begun else 0.0

    # ------------------------------------------------------------ changing

    def _within(self, size: int) -> int:
        # A pool has at least one slot.
        return max(1, self.min_concurrency, min(self.max_concurrency, size))

    def _resize(self, size: int) -> bool:
        change = size - self.processes
        if change > 0:
            logger.info("Scaling up %d processes.", change)
            self.pool.grow(change)
            self._waiting_since = None
        elif change < 0:
            logger.info("Scaling down %d processes.", -change)
            self.pool.shrink(-change)
        else:
            return False
        self.processes = size
        self._adjust_prefetch()
        return True

    def _adjust_prefetch(self) -> None:
        worker = self.worker
        slots = self.max_concurrency if worker.decider.basis == "queue" else self.processes + 1
        if worker.prefetch.slots != slots:
            worker.prefetch.slots = slots
            worker.intake.ask()
