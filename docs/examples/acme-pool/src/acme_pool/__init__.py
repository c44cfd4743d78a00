"""A pool that starts a thread for each task.

1. Takes as many jobs as it has free slots, and never more: nothing waits inside, so there is nothing to take back.
2. A job's thread hands the outcome to the loop, which reports it. All else happens in the loop.
3. Threads cannot be interrupted, hence no limits and no termination. A killed pool reports what ran as terminated and
   takes no more notice of it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from framework.api.pool import TERMINATED, WORKER_LOST, Job, Outcome, Pool, PoolContext, PoolTraits, Workload

__all__ = ["AcmePool"]


class AcmeOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The table ``[pool.acme]``."""

    thread_name: Annotated[str, msgspec.Meta(description="What the threads are called, for debuggers.")] = "acme"


class AcmePool(Pool):
    """Runs each job in a thread of its own."""

    traits: ClassVar[PoolTraits] = PoolTraits(resize=True, restart=True)
    options_type: ClassVar[type[msgspec.Struct]] = AcmeOptions

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        self._size = max(1, context.concurrency)
        self._running: dict[int, tuple[Job, threading.Thread]] = {}
        self._workload: Workload | None = None
        self._ended = False
        self._finished = 0

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Make the workload; threads come with the jobs."""
        self.restart()

    def restart(self, imports: Sequence[str] = (), fresh: bool = False) -> None:
        """Make the workload anew. Core has imported the modules here, where jobs run, already."""
        workload = self.context.workload()
        workload.prepare()
        self._workload = workload

    def stop(self, deadline: float) -> None:
        """Wait for what runs, until `deadline`."""
        self._ended = True
        for _job, thread in list(self._running.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        workload, self._workload = self._workload, None
        if workload is not None:
            workload.release()

    def kill(self) -> None:
        """Report what runs as terminated; its threads end when they are through, and nobody listens."""
        self._ended = True
        torn = [self.context.outcome_for(job, TERMINATED, "SIGKILL", 0.0) for job, _thread in self._running.values()]
        self._running.clear()
        if torn:
            self.context.events.finished(torn)

    # ------------------------------------------------------------ jobs

    def capacity(self) -> int:
        """Return the number of free slots."""
        return 0 if self._ended else max(0, self._size - len(self._running))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start a thread for each of `jobs`."""
        assert self._workload is not None, "core submits nothing before start"
        for job in jobs:
            arguments = (self._workload, job)
            thread = threading.Thread(target=self._run, args=arguments, name=self.options.thread_name, daemon=True)
            thread.start()
            self._running[job.seq] = job, thread
        # Outcomes come by way of the loop, hence after this.
        self.context.events.started([job.seq for job in jobs], os.getpid())

    def _run(self, workload: Workload, job: Job) -> None:
        began = time.monotonic()
        try:
            outcome = workload.run(job)
        except BaseException as error:  # noqa: BLE001 - a job without an end would hold its slot for ever
            text = f"the task ended its thread with {type(error).__qualname__}"
            outcome = self.context.outcome_for(job, WORKER_LOST, text, time.monotonic() - began)
        self.context.loop.call_soon_threadsafe(self._end, outcome)

    def _end(self, outcome: Outcome) -> None:
        if self._running.pop(outcome.seq, None) is not None:
            self._finished += 1
            self.context.events.finished([outcome])

    def quiesce(self) -> list[int]:
        """Return nothing: every job that was submitted has begun."""
        return []

    # ------------------------------------------------------------ remote control

    def grow(self, n: int) -> None:
        """Have `n` slots more."""
        self._size += n
        self.context.events.vacancy()

    def shrink(self, n: int) -> None:
        """Have `n` slots less, at least one; what runs goes on."""
        self._size = max(1, self._size - n)

    def info(self) -> dict[str, Any]:
        """Return the pool's part of `inspect stats`."""
        return {
            "implementation": f"{type(self).__module__}:{type(self).__name__}",
            "max-concurrency": self._size,
            "processes": [os.getpid()],
            "max-tasks-per-child": "N/A",
            "put-guarded-by-semaphore": True,
            "timeouts": self.context.timeouts,
            "writes": {
                "total": self._finished,
                "avg": "100.00%" if self._finished else "0.00%",
                "all": "100.00%" if self._finished else "0.00%",
                "raw": str(self._finished),
            },
        }
