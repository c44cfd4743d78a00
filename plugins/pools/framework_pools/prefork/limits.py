"""Time limits and termination of jobs that run in children.

1. Keeps one timer for each child with limited jobs. Time counts from the job's real start, read from the shared memory.
2. Soft limit: sends SIGUSR1 for one job, see `child`. Hard limit: logs the job's stack, sends SIGTERM, and SIGKILL a
   tenth of a second later.
3. Sends a signal only when it cannot hit another job: first takes back the jobs that the child has not claimed, so that
   no other job can begin there.
4. Termination: sends the requested signal, and SIGKILL if the child, in a library written in C, cannot handle it.
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
from framework_pools.prefork.child import LEFT_TO_WORKER
from framework_pools.prefork.slot import PendingKill, Slot
from framework_pools.prefork.stacks import Stacks, state_of

logger = logging.getLogger(__name__)

#: Seconds between SIGTERM and SIGKILL.
_GRACE: Final = 0.1
#: Seconds in which a child that is terminated must run Python code.
_DEAF_MAX: Final = 5.0
#: Seconds to wait for the stack of a job at its hard limit.
_STACK_TIMEOUT: Final = 0.1
#: Seconds after SIGKILL in which a process that can exit has exited.
_EXIT_TIMEOUT: Final = 5.0


class Limits:
    """Applies time limits and terminations to children.

    Callbacks: `collect` reports a slot's new outcomes, `recall` moves its waiting jobs to other children.
    """

    def __init__(
        self, loop: Loop, stacks: Stacks, collect: Callable[[Slot], object], recall: Callable[[Slot], object]
    ) -> None:
        self._loop = loop
        self._stacks = stacks
        self._collect = collect
        self._recall = recall

    def given(self, slot: Slot, jobs: Iterable[tuple[Job, float]]) -> None:
        """Watch the limits of `jobs`, just given to `slot`."""
        least = min((limit for job, _cost in jobs for limit in (job[4], job[5]) if limit is not None), default=None)
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
        self._collect(slot)
        current = slot.running()
        now = monotonic()
        # A job that has not begun reaches its limit, at the earliest, one limit from now.
        dues = [
            now + limit
            for job, _cost in slot.jobs.values()
            if current is None or job is not current[0]
            for limit in (job.soft_limit, job.hard_limit)
            if limit is not None
        ]
        if current is not None:
            job, began = current[0], current[1] / 1e9
            if job.soft_limit is not None and slot.soft_limit_sent != job.seq:
                if now >= began + job.soft_limit:
                    logger.warning("Soft time limit (%gs) exceeded for %s[%s]", job.soft_limit, job.task, job.id)
                    slot.raise_soft_limit(job.seq)
                else:
                    dues.append(began + job.soft_limit)
            if job.hard_limit is not None:
                if now >= began + job.hard_limit:
                    if self._set_pending_kill(slot, job.seq, TIMED_OUT, f"{job.hard_limit:g}"):
                        logger.error("Hard time limit (%gs) exceeded for %s[%s]", job.hard_limit, job.task, job.id)
                        self._stacks.request(
                            slot, partial(self._end_at_hard_limit, slot, job), _STACK_TIMEOUT, all_threads=True
                        )
                        return
                else:
                    dues.append(began + job.hard_limit)
        if dues:
            self._arm(slot, min(dues))

    def terminate(self, slot: Slot, seq: int, signum: int) -> bool:
        """Terminate job `seq` if it runs in `slot`; return whether it does."""
        try:
            name = signal.Signals(signum).name
        except ValueError:
            name = str(signum)
        if not self._set_pending_kill(slot, seq, TERMINATED, name):
            return False
        slot.end_by(signum)
        slot.continue_stopped(signum)
        if signum in LEFT_TO_WORKER:
            self._loop.call_later(_DEAF_MAX, self._kill_deaf, slot)
        return True

    def _kill_deaf(self, slot: Slot) -> None:
        if not slot.closed and slot.deaf:
            self._kill(slot)

    def _set_pending_kill(self, slot: Slot, seq: int, code: int, text: str) -> bool:
        """If job `seq` runs in `slot`, set the outcome that it gets when its child dies; return whether it runs."""
        self._recall(slot)
        self._collect(slot)
        # The remaining job was claimed, and a child claims a job only after the end of the one before: it runs.
        entry = slot.jobs.get(seq)
        if entry is None:
            return False
        slot.pending_kill = PendingKill(entry[0], code, text)
        return True

    def _end_at_hard_limit(self, slot: Slot, job: Job, stack: str) -> None:
        self._collect(slot)
        if slot.closed or job.seq not in slot.jobs:
            return  # the job has ended: the child was retired and needs no signal
        if stack:
            logger.warning("Stack of process %r pid:%s at its hard time limit:\n%s", slot.spec.name, slot.pid, stack)
        slot.end_by(signal.SIGTERM)
        self._loop.call_later(_GRACE, self._kill, slot)

    def _kill(self, slot: Slot) -> None:
        if not slot.closed:
            slot.signal(signal.SIGKILL)
            self._loop.call_later(_EXIT_TIMEOUT, self._log_unkillable, slot)

    def _log_unkillable(self, slot: Slot) -> None:
        if not slot.closed and slot.pid is not None:
            logger.error(
                "Process %r pid:%s has not exited after SIGKILL (state %r): it may wait in the kernel for a disk or a "
                "network file system; its slot stays empty until it exits",
                slot.spec.name,
                slot.pid,
                state_of(slot.pid),
            )
