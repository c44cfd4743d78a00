"""Exit statuses of children, and the outcomes of their jobs.

1. `describe` turns a wait status into `signal 9 (SIGKILL)` or `exitcode 3`.
2. `OomWatch` detects kills by the kernel's OOM killer, from the control group's counter, and logs unexpected exits.
3. `outcome_of` turns a record of a child's outbox into an outcome for core.
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
    """Return the text for the wait status `status`; None: the process died with its fork server."""
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
    """Return whether SIGKILL, which the OOM killer sends, ended the process."""
    return status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)


class OomWatch:
    """Reads the number of OOM kills in this process's control group."""

    def __init__(self) -> None:
        self._path = _counter_path()
        self._seen = self._read()

    def has_killed(self) -> bool:
        """Return whether the OOM killer has killed a process since the last call."""
        before, self._seen = self._seen, self._read()
        return self._seen > before

    def log_exit(self, name: str, pid: int | None, status: int | None, *, unasked: bool) -> None:
        """Log the exit of a child; `unasked`: not caused by a signal of the pool."""
        hint = ""
        if unasked and was_killed(status):
            hint = " by the kernel, out of memory" if self.has_killed() else " (out of memory?)"
        logger.error("Process %r pid:%s exited with '%s'%s", name, pid, describe(status), hint)

    def _read(self) -> int:
        if self._path is None:
            return 0
        with suppress(OSError, ValueError, IndexError):
            for line in self._path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0


def _counter_path() -> Path | None:
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
    """Return the outcome of `job`; `pending_kill`: its child's pending kill, if any."""
    code, runtime = record[1], record[2]
    if code == TIMED_OUT:  # the soft limit has struck outside the task's own code
        return outcome_for(job, SOFT_TIMED_OUT, f"{job.soft_limit or 0:g}", runtime)
    if code == WORKER_LOST:
        return outcome_for(job, WORKER_LOST, record[4], runtime)
    if code == UNKNOWN_HERE:
        text = f"the pool's processes have not imported the task {job.task}: restart the pool with its module"
        return outcome_for(job, WORKER_LOST, text, runtime)
    if code in (FAILURE, SOFT_TIMED_OUT) and pending_kill is not None and pending_kill.job is job:
        # The task caught the signal and failed with an exception of its own.
        return outcome_for(job, pending_kill.code, pending_kill.text, runtime)
    return as_outcome(record)
