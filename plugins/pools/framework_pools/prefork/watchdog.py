"""Watchdog of the prefork pool: checks a few times a second, while children have jobs, that they make progress.

1. Logs a child stopped by SIGSTOP or a debugger, moves its waiting jobs to other children, and gives it no more jobs
   until it continues.
2. Logs the stack of a child whose job runs longer than `stuck_after`, once a job.
3. Kills and replaces a child that neither begins its jobs nor exits in time, and logs its stack.
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
from framework_pools.prefork.stacks import STACK_TIMEOUT, Stacks, is_stopped

logger = logging.getLogger(__name__)

#: Seconds between two checks.
_INTERVAL: Final = 0.25
#: Seconds without progress after which a child's process state is checked.
_QUIET_MAX: Final = 0.1
#: Seconds in which a retired child must exit, including the application's clean-up.
_EXIT_TIMEOUT: Final = 60.0


class Watch:
    """Checks the progress of the children in `slots`.

    Callbacks: `collect` reports a slot's new outcomes, `recall` moves its waiting jobs to other children,
    `on_continued` gives it jobs again.
    """

    def __init__(
        self,
        context: PoolContext,
        stuck_after: float,
        slots: Mapping[int, Slot],
        collect: Callable[[Slot], object],
        recall: Callable[[Slot], object],
        on_continued: Callable[[Slot], object],
    ) -> None:
        self._loop = context.loop
        self._start_timeout = context.start_timeout
        self._stuck_after = stuck_after
        self._slots = slots
        self._collect = collect
        self._recall = recall
        self._on_continued = on_continued
        self.stacks = Stacks(context.loop)
        #: Set while a check is scheduled.
        self.timer: Timer | None = None

    def arm(self) -> None:
        """Start checking; the checks end when no child has anything to do."""
        if self.timer is None:
            self.timer = self._loop.call_later(_INTERVAL, self._check_all)

    def cancel(self) -> None:
        """Cancel the timer; harmless when repeated."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _check_all(self) -> None:
        self.timer = None
        again = False
        for slot in list(self._slots.values()):
            if slot.ready and slot.pending_kill is None and not slot.given_up:
                again = self._check(slot) or again
        if again:
            self.arm()

    def _check(self, slot: Slot) -> bool:
        """Check one child; return whether it must be checked again."""
        if slot.jobs:
            self._collect(slot)
        current = slot.running()
        if current is not None:
            job, quiet = current[0], (monotonic_ns() - current[1]) / 1e9
        elif slot.jobs or slot.retired or slot.stopped:
            job, quiet = None, monotonic() - slot.progress_at
        else:
            return False
        if quiet > _QUIET_MAX:
            self._check_state(slot, job, quiet)
        return True

    def _check_state(self, slot: Slot, job: Job | None, quiet: float) -> None:
        assert slot.pid is not None
        stopped = is_stopped(slot.pid)
        if stopped is not slot.stopped:
            self._set_stopped(slot, job, stopped)
        elif stopped and slot.retired and job is None:
            self._give_up(slot, "cannot exit while it is stopped")
        elif stopped:
            return
        elif job is not None:
            if self._stuck_after and quiet > self._stuck_after and slot.stuck_logged != job.seq:
                slot.stuck_logged = job.seq
                self.stacks.request(slot, partial(self._log_stuck, slot, job, quiet), STACK_TIMEOUT, all_threads=False)
        elif slot.retired:
            if quiet > _EXIT_TIMEOUT:
                self._give_up(slot, f"has not exited for {quiet:.0f} s")
        elif quiet > self._start_timeout:
            self._give_up(slot, f"has not begun its jobs for {quiet:.0f} s (proc_alive_timeout)")

    def _set_stopped(self, slot: Slot, job: Job | None, stopped: bool) -> None:
        slot.stopped = slot.stalled = stopped
        if stopped:
            logger.warning(
                "Process %r pid:%s is stopped (by SIGSTOP or a debugger) %s; other processes get its waiting jobs",
                slot.spec.name,
                slot.pid,
                "with no task" if job is None else f"in {job.task}[{job.id}]",
            )
            self._recall(slot)
        else:
            logger.info("Process %r pid:%s is no longer stopped and gets jobs again", slot.spec.name, slot.pid)
            slot.progress_at = monotonic()
            self._on_continued(slot)

    def _log_stuck(self, slot: Slot, job: Job, quiet: float, stack: str) -> None:
        if job.seq in slot.jobs:
            logger.warning(
                "Process %r pid:%s has been in %s[%s] for %.0f s%s",
                slot.spec.name,
                slot.pid,
                job.task,
                job.id,
                quiet,
                f"; its stack:\n{stack}" if stack else "; its stack is not available",
            )

    def _give_up(self, slot: Slot, why: str) -> None:
        slot.given_up = slot.stalled = True
        self._recall(slot)
        self.stacks.request(slot, partial(self._kill, slot, why), STACK_TIMEOUT, all_threads=True)

    def _kill(self, slot: Slot, why: str, stack: str) -> None:
        if not slot.closed:
            where = f"; its stack:\n{stack}" if stack else ""
            logger.error("Process %r pid:%s %s: killing it%s", slot.spec.name, slot.pid, why, where)
            slot.signal(signal.SIGKILL)
