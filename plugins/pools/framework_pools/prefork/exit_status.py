"""What a child died of, in words.

1. `describe` turns a wait status into `signal 9 (SIGKILL)` or `exitcode 3`.
2. `OomWatch` says whether the kernel's OOM killer has struck since the last look, by the counter of the control group,
   and names a child whose death nobody asked for.
3. `outcome_of` makes the outcome that core gets for what a child has put into its outbox, also of jobs that did not
   simply succeed.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from framework.api.pool import FAILURE, SOFT_TIMED_OUT, TIMED_OUT, WORKER_LOST, Job, Outcome, OutcomeFor
from framework_pools.prefork.child import UNKNOWN_HERE
from framework_pools.prefork.slot import PendingKill

logger = logging.getLogger(__name__)

_COUNTERS: Final = ("/sys/fs/cgroup{}/memory.events", "/sys/fs/cgroup/memory{}/memory.oom_control")


def describe(status: int | None) -> str:
    """Return the wait status `status` in words; None: the process went with its fork server."""
    if status is None:
        return "signal 9 (SIGKILL), with its fork server"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"signal {number} ({signal.Signals(number).name})"
        except ValueError:
            return f"signal {number}"
    return f"exitcode {os.waitstatus_to_exitcode(status)}"


def was_killed(status: int | None) -> bool:
    """Return whether SIGKILL ended the process, as the OOM killer does it."""
    return status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)


class OomWatch:
    """Counts the kills of the OOM killer in this process's control group."""

    def __init__(self) -> None:
        self._path = _counter()
        self._seen = self._read()

    def struck(self) -> bool:
        """Return whether there were more kills since the last call."""
        before, self._seen = self._seen, self._read()
        return self._seen > before

    def tell(self, name: str, pid: int | None, status: int | None, *, unasked: bool) -> None:
        """Log the death of a child; `unasked`: the pool has not sent the signal."""
        hint = ""
        if unasked and was_killed(status):
            hint = " by the kernel, out of memory" if self.struck() else " (out of memory?)"
        logger.error("Process %r pid:%s exited with '%s'%s", name, pid, describe(status), hint)

    def _read(self) -> int:
        if self._path is None:
            return 0
        with suppress(OSError, ValueError, IndexError):
            for line in self._path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0


def _counter() -> Path | None:
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            hierarchy, controllers, group = line.split(":", 2)
            if hierarchy == "0" or "memory" in controllers.split(","):
                for template in _COUNTERS:
                    # A container sees its own group as the root of the tree.
                    for name in (group.rstrip("/"), ""):
                        path = Path(template.format(name))
                        if path.exists():
                            return path
    return None


# ---------------------------------------------------------------- the outcome of a job

as_outcome: Callable[[tuple[Any, ...]], Outcome] = partial(tuple.__new__, Outcome)


def outcome_of(record: tuple[Any, ...], job: Job, pending_kill: PendingKill | None, outcome_for: OutcomeFor) -> Outcome:
    """Return the outcome of `job`; `pending_kill`: why its child is about to be killed, if it is."""
    code, runtime = record[1], record[2]
    if code == TIMED_OUT:
        return outcome_for(job, TIMED_OUT, f"{job.soft_limit or 0:g}", runtime)
    if code == WORKER_LOST:
        return outcome_for(job, WORKER_LOST, record[4], runtime)
    if code == UNKNOWN_HERE:
        text = f"the processes of the pool do not know the task {job.task}, which a restart should have brought"
        return outcome_for(job, WORKER_LOST, text, runtime)
    if code in (FAILURE, SOFT_TIMED_OUT) and pending_kill is not None and pending_kill.job is job:
        # It caught the signal that ends it, and left in its own way.
        return outcome_for(job, pending_kill.code, pending_kill.text, runtime)
    return as_outcome(record)
