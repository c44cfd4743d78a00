"""Looks after children that make no progress; a few looks a second, and none while no child has anything to do.

1. A stopped child (SIGSTOP, a debugger): it is named in the log, what waits in it runs elsewhere, and it gets nothing
   until it goes on.
2. A child that is in one job for longer than `stuck_after`: its stack is logged, once a job.
3. A child that does not begin what it was given, or does not leave when it should, for very long: its stack is logged,
   and it is killed and replaced.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic, monotonic_ns
from typing import Final

from framework.api.loop import Timer
from framework.api.pool import Job, PoolContext
from framework_pools.prefork.slot import Slot
from framework_pools.prefork.stacks import Stacks, is_stopped

logger = logging.getLogger(__name__)

#: Seconds between two looks.
_EVERY: Final = 0.25
#: Seconds without progress after which a child is looked at closely.
_QUIET: Final = 0.1
#: Seconds that a child may take over leaving: the application's clean-up is in them.
_LEAVING: Final = 60.0
#: Seconds to wait for a stack.
_PATIENCE: Final = 1.0


class Watch:
    """Watches the children in `slots`.

    `settle` brings a slot's books up to date; `recall` takes its waiting jobs back; `revive` gives it jobs again.
    """

    def __init__(
        self,
        context: PoolContext,
        stuck_after: float,
        slots: Mapping[int, Slot],
        settle: Callable[[Slot], object],
        recall: Callable[[Slot], object],
        revive: Callable[[Slot], object],
    ) -> None:
        self._loop = context.loop
        self._start_timeout = context.start_timeout
        self._stuck_after = stuck_after
        self._slots = slots
        self._settle = settle
        self._recall = recall
        self._revive = revive
        self.stacks = Stacks(context.loop)
        #: Set while there is something to watch.
        self.timer: Timer | None = None

    def arm(self) -> None:
        """Watch, from now until no child has anything to do."""
        if self.timer is None:
            self.timer = self._loop.call_later(_EVERY, self._look)

    def cancel(self) -> None:
        """Have nothing of ours left in the loop."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _look(self) -> None:
        self.timer = None
        again = False
        for slot in list(self._slots.values()):
            if slot.ready and slot.pending_kill is None and not slot.given_up:
                again = self._check(slot) or again
        if again:
            self.arm()

    def _check(self, slot: Slot) -> bool:
        """Look at one child; return whether it has anything to do."""
        if slot.jobs:
            self._settle(slot)
        current = slot.running()
        if current is not None:
            job, quiet = current[0], (monotonic_ns() - current[1]) / 1e9
        elif slot.jobs or slot.retired or slot.stopped:
            job, quiet = None, monotonic() - slot.touched
        else:
            return False
        if quiet > _QUIET:
            self._look_closer(slot, job, quiet)
        return True

    def _look_closer(self, slot: Slot, job: Job | None, quiet: float) -> None:
        assert slot.pid is not None
        stopped = is_stopped(slot.pid)
        if stopped is not slot.stopped:
            self._turn(slot, job, stopped)
        elif stopped and slot.retired and job is None:
            self._give_up(slot, "is to leave, which it cannot while it is stopped")
        elif stopped:
            return
        elif job is not None:
            if self._stuck_after and quiet > self._stuck_after and slot.told != job.seq:
                slot.told = job.seq
                self.stacks.ask(slot, partial(self._stuck, slot, job, quiet), _PATIENCE, doomed=False)
        elif slot.retired:
            if quiet > _LEAVING:
                self._give_up(slot, f"is to leave and has not for {quiet:.0f} s")
        elif quiet > self._start_timeout:
            self._give_up(slot, f"has not begun what it was given for {quiet:.0f} s")

    def _turn(self, slot: Slot, job: Job | None, stopped: bool) -> None:
        slot.stopped = slot.stalled = stopped
        if stopped:
            logger.warning(
                "Process %r pid:%s is stopped (by SIGSTOP or a debugger) %s; the others go on",
                slot.spec.name,
                slot.pid,
                "with no task" if job is None else f"in {job.task}[{job.id}]",
            )
            self._recall(slot)
        else:
            logger.info("Process %r pid:%s is no longer stopped", slot.spec.name, slot.pid)
            slot.touched = monotonic()
            self._revive(slot)

    def _stuck(self, slot: Slot, job: Job, quiet: float, stack: str) -> None:
        if job.seq in slot.jobs:
            logger.warning(
                "Process %r pid:%s has been in %s[%s] for %.0f s%s",
                slot.spec.name,
                slot.pid,
                job.task,
                job.id,
                quiet,
                f"; it is here:\n{stack}" if stack else " and does not say where",
            )

    def _give_up(self, slot: Slot, why: str) -> None:
        slot.given_up = slot.stalled = True
        self._recall(slot)
        self.stacks.ask(slot, partial(self._kill, slot, why), _PATIENCE, doomed=True)

    def _kill(self, slot: Slot, why: str, stack: str) -> None:
        if not slot.closed:
            where = f"; it was here:\n{stack}" if stack else ""
            logger.error("Process %r pid:%s %s and is killed%s", slot.spec.name, slot.pid, why, where)
            slot.signal(signal.SIGKILL)
