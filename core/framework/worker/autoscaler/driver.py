"""The autoscaler's driver: keeps the pool at the size that an autoscaler plugin decides on, between two bounds.

1. Asks the plugin (`framework.api.autoscaler`) once a second, and soon after more was received than the pool has slots.
2. Grows at once; shrinks after the keep-alive time. Says in the log by how much, once a change.
3. Keeps the prefetch limit in step: who goes by what waits must see what waits.
4. May be subclassed, as the Workers Guide has it: `_maybe_scale` then decides, with `qty`, `processes`, the bounds,
   `scale_up` and `scale_down`.

Everything happens in the loop.
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

#: Seconds between two looks when nothing happens, at the most.
PERIOD: Final = 1.0
#: Seconds from a sign that something waits to the look: a burst that is still coming in is one change.
SOON: Final = 0.02
#: Seconds between two looks that such signs bring about: a slot that was added needs time to take work.
APART: Final = 0.25


def period(keepalive: float) -> float:
    """Return the seconds between two looks: few enough to see a short keep-alive time pass."""
    return min(PERIOD, max(APART, keepalive / 2))


class AutoscaleContext(msgspec.Struct, kw_only=True):
    """What the driver needs of the worker."""

    loop: Loop
    intake: Intake
    settle: Settle
    prefetch: Prefetch
    decider: Decider


class AutoscalerDriver:
    """Scales one pool."""

    def __init__(
        self,
        pool: Pool,
        max_concurrency: int,
        min_concurrency: int = 0,
        worker: AutoscaleContext | None = None,
        keepalive: float = 30.0,
        mutex: object = None,
    ) -> None:
        """`keepalive` is in seconds. Nothing here needs a `mutex`; subclasses may pass one on."""
        assert worker is not None
        self.pool = pool
        self.max_concurrency = max_concurrency
        self.min_concurrency = min_concurrency
        self.worker = worker
        self.mutex = mutex
        #: Slots of the pool; it was started with the smallest number.
        self.processes = max(1, min_concurrency)
        self._keepalive = ShrinkDelay(keepalive)
        self._period = period(keepalive)
        self._loop = worker.loop
        self._running = worker.settle.running
        self._backlog = worker.intake.backlog
        #: Since when something waits, and the pool has not grown; None: nothing does.
        self._waiting_since: float | None = None
        self._last_look = 0.0
        self._failure = ""
        self._soon: Timer | None = None
        self._timer: Timer | None = None
        self._adjust_prefetch()

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to look."""
        self._timer = self._loop.call_later(self._period, self._look)
        if self.worker.decider.basis == "queue":
            self.worker.intake.on_feed = self._fed

    def stop(self) -> None:
        """Look no longer; the pool stays as it is."""
        self.worker.intake.on_feed = None
        for timer in (self._timer, self._soon):
            if timer is not None:
                timer.cancel()

    def _fed(self) -> None:
        """Hear that the pool was given what it takes."""
        if len(self._running) + len(self._backlog) <= self.processes or self._soon is not None:
            return
        if self.processes < self.max_concurrency:
            delay = max(SOON, self._last_look + APART - self._loop.time())
            self._soon = self._loop.call_later(delay, self._look_again)

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._period, self._look)
        self._guarded()

    def _look_again(self) -> None:
        self._soon = None
        self._guarded()

    def _guarded(self) -> None:
        if self.worker.intake.draining:
            return
        self._last_look = self._loop.time()
        try:
            self.maybe_scale()
            self._failure = ""
        except (
            Exception
        ) as error:  # the hook-call wall: an autoscaler may be a stranger's, and the pool can stay as it is
            # Once, and not at every look.
            if repr(error) != self._failure:
                logger.exception("The autoscaler failed; the pool stays at %d slots", self.processes)
            self._failure = repr(error)

    # ------------------------------------------------------------ what a subclass sees and may change

    @property
    def qty(self) -> int:
        """Tasks that the worker has received and could run, those that run included."""
        return len(self._running) + len(self._backlog)

    def maybe_scale(self, req: TaskRequest | None = None) -> None:
        """Scale if it is time to."""
        self._maybe_scale(req)

    def _maybe_scale(self, req: TaskRequest | None = None) -> bool | None:
        """Decide and scale; return whether anything changed. Made to be overridden."""
        seen = self.observe()
        wanted = self._within(self.worker.decider.decide(seen))
        return self._resize(self._keepalive.allow(self._loop.time(), self.processes, wanted))

    def scale_up(self, n: int) -> bool:
        """Add `n` slots, as far as the upper bound allows."""
        return self._resize(self._within(self.processes + n))

    def scale_down(self, n: int) -> bool:
        """Remove `n` slots, as far as the lower bound allows and slots are idle."""
        idle = max(0, self.processes - self._begun()[0])
        return self._resize(self._within(self.processes - min(n, idle)))

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:  # noqa: A002 - the guide's names
        """Change the bounds, and the size with them; return them. Raises `ConfigError`."""
        bounds = checked(
            self.max_concurrency if max is None else max,
            self.min_concurrency if min is None else min,
        )
        self.max_concurrency, self.min_concurrency = bounds
        self._resize(self._within(self.processes))
        self._adjust_prefetch()
        return self.max_concurrency, self.min_concurrency

    def info(self) -> dict[str, int]:
        """Return what `inspect stats` shows."""
        return {
            "max": self.max_concurrency,
            "min": self.min_concurrency,
            "current": self.processes,
            "qty": self.qty,
        }

    # ------------------------------------------------------------ looking

    def observe(self) -> Observation:
        """Return what the plugin is shown."""
        now = self._loop.time()
        running, age = self._begun()
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
            machine=system_load.look() if self.worker.decider.basis == "machine" else None,
        )

    def _begun(self) -> tuple[int, float]:
        """Return how many tasks run, and for how many seconds on average they have."""
        begun = [item.started for item in self._running.values() if item.started]
        return len(begun), max(0.0, time.time() - sum(begun) / len(begun)) if begun else 0.0

    # ------------------------------------------------------------ changing

    def _within(self, size: int) -> int:
        # No pool goes below one slot.
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
