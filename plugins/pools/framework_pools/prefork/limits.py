"""Time limits of jobs that run in children, and their termination.

1. One timer a child, and none at all while no job with a limit is in it. Time is measured from the job's real start,
   which the shared page tells.
2. Soft limit: SIGUSR1, meant for one job, see `child`. Hard limit: the job's stack is logged, then TERM, and KILL a
   tenth of a second later.
3. A signal is sent to a child only when it is certain that it can hit no job but the one that is meant: first
   everything is taken back that the child has not claimed, so that nothing can begin there any more.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Final

from framework.api.loop import Loop
from framework.api.pool import TERMINATED, TIMED_OUT, Job
from framework_pools.prefork.slot import PendingKill, Slot
from framework_pools.prefork.stacks import Stacks, state_of

logger = logging.getLogger(__name__)

#: Seconds between TERM and KILL.
_GRACE: Final = 0.1
#: Seconds to wait for the stack of a job that is over its hard limit.
_PATIENCE: Final = 0.1
#: Seconds after KILL in which every process dies that can.
_DEATH: Final = 5.0


class Limits:
    """Watches the clock for the children.

    `settle` brings a slot's books up to date; `recall` takes its waiting jobs back.
    """

    def __init__(
        self, loop: Loop, stacks: Stacks, settle: Callable[[Slot], object], recall: Callable[[Slot], object]
    ) -> None:
        self._loop = loop
        self._stacks = stacks
        self._settle = settle
        self._recall = recall

    def given(self, slot: Slot, jobs: Iterable[tuple[Job, float]]) -> None:
        """Watch those of `jobs`, just given to `slot`, that have limits."""
        least = min(
            (limit for job, _cost in jobs for limit in (job[4], job[5]) if limit is not None),
            default=None,
        )
        if least is not None:
            self._arm(slot, monotonic() + least)

    def _arm(self, slot: Slot, due: float) -> None:
        if slot.limit_timer is not None:
            if slot.limit_due <= due:
                return
            slot.limit_timer.cancel()
        slot.limit_due = due
        slot.limit_timer = self._loop.call_later(max(0.0, due - monotonic()), self._check, slot)

    def _check(self, slot: Slot) -> None:
        slot.limit_timer = None
        if slot.pending_kill is not None:
            return
        self._settle(slot)
        current = slot.running()
        now = monotonic()
        # A job that has not begun cannot be over its limit before the limit has passed from now.
        dues = [
            now + limit
            for job, _cost in slot.jobs.values()
            if current is None or job is not current[0]
            for limit in (job.soft_limit, job.hard_limit)
            if limit is not None
        ]
        if current is not None:
            job, began = current[0], current[1] / 1e9
            if job.soft_limit is not None and slot.warned != job.seq:
                if now >= began + job.soft_limit:
                    logger.warning("Soft time limit (%gs) exceeded for %s[%s]", job.soft_limit, job.task, job.id)
                    slot.warn(job.seq)
                else:
                    dues.append(began + job.soft_limit)
            if job.hard_limit is not None:
                if now >= began + job.hard_limit:
                    if self._condemn(slot, job.seq, TIMED_OUT, f"{job.hard_limit:g}"):
                        logger.error("Hard time limit (%gs) exceeded for %s[%s]", job.hard_limit, job.task, job.id)
                        self._stacks.ask(slot, partial(self._strike, slot, job), _PATIENCE, doomed=True)
                        return
                else:
                    dues.append(began + job.hard_limit)
        if dues:
            self._arm(slot, min(dues))

    def terminate(self, slot: Slot, seq: int, signum: int) -> bool:
        """End the job `seq` if it is running in `slot`."""
        try:
            name = signal.Signals(signum).name
        except ValueError:
            name = str(signum)
        if not self._condemn(slot, seq, TERMINATED, name):
            return False
        slot.signal(signum)
        slot.resume(signum)
        return True

    def _condemn(self, slot: Slot, seq: int, code: int, text: str) -> bool:
        """Doom the child in `slot` if it is in the job `seq`; when it dies, `code` is the verdict."""
        self._recall(slot)
        self._settle(slot)
        # What is left has been claimed, and a child claims a job only when the one before has ended: it is in this one.
        entry = slot.jobs.get(seq)
        if entry is None:
            return False
        slot.pending_kill = PendingKill(entry[0], code, text)
        return True

    def _strike(self, slot: Slot, job: Job, stack: str) -> None:
        self._settle(slot)
        if slot.closed or job.seq not in slot.jobs:
            return  # it has ended meanwhile: nothing is left to strike at, and the child leaves by itself
        if stack:
            logger.warning("Process %r pid:%s was here:\n%s", slot.spec.name, slot.pid, stack)
        slot.signal(signal.SIGTERM)
        self._loop.call_later(_GRACE, self._finish_off, slot)

    def _finish_off(self, slot: Slot) -> None:
        if not slot.closed:
            slot.signal(signal.SIGKILL)
            self._loop.call_later(_DEATH, self._still_there, slot)

    def _still_there(self, slot: Slot) -> None:
        if not slot.closed and slot.pid is not None:
            logger.error(
                "Process %r pid:%s does not die of SIGKILL: the kernel holds it (state %r), for a disk or a network "
                "file system perhaps; its place stays empty until it does",
                slot.spec.name,
                slot.pid,
                state_of(slot.pid),
            )
