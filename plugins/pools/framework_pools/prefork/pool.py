"""The prefork pool's driver: assigns jobs to children and reports their outcomes.

1. Spreads jobs over the children, see `spread`. Jobs that no child can take wait in the backlog.
2. Reports started jobs to core: at once for a job given to an idle child, otherwise when the shared memory shows the
   job or its outcome arrives.
3. Checks children every few milliseconds while jobs wait inside them: when a child's current job runs longer than
   expected, other children get its waiting jobs.
4. When a child dies, its running job gets an outcome; other children run the jobs that it had not begun.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, ClassVar, Final

import msgspec

from framework.api.loop import Timer
from framework.api.pool import INVALID, SUCCESS, TERMINATED, WORKER_LOST, Job, Outcome, Pool, PoolContext, PoolTraits
from framework.exceptions import ConfigError, FrameworkError
from framework_pools._costs import Costs
from framework_pools.prefork import shared_memory as shared_memory
from framework_pools.prefork.assignment import Batch, free_capacity, spread
from framework_pools.prefork.child import UNKNOWN_HERE
from framework_pools.prefork.exit_status import OomWatch, as_outcome, describe, outcome_of
from framework_pools.prefork.launcher import warm
from framework_pools.prefork.limits import Limits
from framework_pools.prefork.options import PreforkOptions
from framework_pools.prefork.slot import Slot, portable
from framework_pools.prefork.stats import PoolStats
from framework_pools.prefork.supervisor import START_METHODS, Supervisor
from framework_pools.prefork.watchdog import Watch

logger = logging.getLogger(__name__)

#: Seconds between two checks of children that have waiting jobs.
_CHECK_INTERVAL: Final = 0.01
#: Seconds in one job after which a child's waiting jobs move to other children.
_STALL_AFTER: Final = 0.02
#: Seconds in which a child should begin a job; a stopped child, or one on a busy machine, takes longer.
_BEGIN_WITHIN: Final = 0.1
#: Seconds to wait for the loop to remove the pool's timers and readers at stop.
_DETACH_TIMEOUT: Final = 0.5


class PreforkPool(Pool):
    """The prefork pool: runs each job in a child process."""

    options_type: ClassVar[type[msgspec.Struct]] = PreforkOptions
    traits: ClassVar[PoolTraits] = PoolTraits(
        processes=True, soft_limit=True, hard_limit=True, terminate=True, resize=True, restart=True, recycles=True
    )

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        if context.start_method not in START_METHODS:
            raise ConfigError(
                f"the pool prefork has no start method {context.start_method!r}: "
                f"choose {' or '.join(START_METHODS)} with --pool-start-method"
            )
        self._loop = context.loop
        self._events = context.events
        self._costs = Costs()
        self._supervisor = Supervisor(context, self._child_changed, self._exited, self._retire, self._dispatch_held)
        self._watch = Watch(
            context, self.options.stuck_after, self._supervisor.slots, self._collect, self._recall, self._continued
        )
        self._limits = Limits(self._loop, self._watch.stacks, self._collect, self._recall)
        #: Jobs not yet given to a child.
        self._backlog: deque[Job] = deque()
        #: Jobs of tasks that the current children have not imported; they wait for the restart in progress.
        self._held: list[Job] = []
        #: Numbers of jobs that were reported as started and have not ended.
        self._reported: set[int] = set()
        self._check_timer: Timer | None = None
        self._oom = OomWatch()
        self._stats = PoolStats()
        self._stopped = False
        self._started = False

    # ------------------------------------------------------------ life

    @classmethod
    def preload(cls, start_method: str, modules: Sequence[str]) -> None:
        """Start the fork server's interpreter, which imports `modules`."""
        if start_method == "fork":
            warm(START_METHODS["fork"][0], modules)

    def prestart(self) -> None:
        """Start the fork server; it imports the application while the worker continues to start."""
        if not self._stopped:
            self._supervisor.prestart()

    def start(self) -> None:
        """Wait for the fork server and request the children.

        Raises `ConfigError` if the application cannot be imported, `FrameworkError` if the server is killed meanwhile.
        """
        self._started = True
        try:
            self._supervisor.start()
        except FrameworkError:
            self.stop(0.0)
            raise

    def stop(self, deadline: float) -> None:
        """Wait for the children to exit until `deadline`, then kill them."""
        if self._stopped:
            return
        self._stopped = True
        if self._started:
            done = threading.Event()
            if self._loop.running:
                # The loop must stop watching the descriptors before they are closed.
                self._loop.call_soon_threadsafe(self._detach, done)
                done.wait(_DETACH_TIMEOUT)
            self._detach(done)
        self._supervisor.end(deadline)

    def _detach(self, done: threading.Event) -> None:
        if not done.is_set():
            if self._check_timer is not None:
                self._check_timer.cancel()
                self._check_timer = None
            self._watch.cancel()
            self._supervisor.detach()
            done.set()

    def kill(self) -> None:
        """Kill every child: running jobs are reported as TERMINATED, waiting jobs are dropped."""
        self._supervisor.close()
        waiting = [*self._held, *self._backlog]
        self._held.clear()
        self._backlog.clear()
        for slot in self._supervisor.slots.values():
            waiting += [job for job, _cost in slot.take_back()]
        self._supervisor.kill()
        # Core expects an outcome for every job reported as started, even if the job has not begun.
        outcomes = [self._terminated(job, 0.0) for job in waiting if job.seq in self._reported]
        for slot in list(self._supervisor.slots.values()):
            self._collect(slot)
            for job, _cost in slot.jobs.values():
                outcomes.append(self._terminated(job, slot.elapsed()))
                self._report_started(job.seq, slot)
            slot.jobs.clear()
        self._report((), outcomes, 0)

    def _terminated(self, job: Job, runtime: float) -> Outcome:
        return self.context.outcome_for(job, TERMINATED, "SIGKILL", runtime)

    def quiesce(self) -> list[int]:
        """Take back the jobs that have not begun; return their numbers."""
        for slot in self._supervisor.slots.values():
            # Jobs that were reported as started must run.
            taken = slot.take_back(keep=self._reported) if not slot.retired else slot.take_back()
            self._backlog.extend(job for job, _cost in taken)
        self._backlog.extendleft(reversed(self._held))
        self._held.clear()
        returned = [job.seq for job in self._backlog if job.seq not in self._reported]
        self._backlog = deque(job for job in self._backlog if job.seq in self._reported)
        self._dispatch()
        return returned

    # ------------------------------------------------------------ jobs in

    def capacity(self) -> int:
        """Return how many more jobs of the recent mix the children can take."""
        if self._supervisor.closing:
            return 0
        return max(0, free_capacity(self._supervisor.slots, self._costs) - len(self._backlog) - len(self._held))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Give `jobs` to children."""
        self._backlog.extend(jobs)
        self._dispatch()

    def _dispatch(self) -> None:
        if self._backlog and not self._supervisor.closing:
            for slot, batch in spread(self._backlog, self._supervisor.slots, self._costs):
                self._give(slot, batch)

    def _give(self, slot: Slot, batch: Batch) -> None:
        head = batch[0][0].seq
        idle = not slot.jobs
        try:
            slot.give(batch)
        except ValueError:
            self._loop.call_soon(self._refuse, [job for job, _cost in batch if not portable(job)])
            self._backlog.extendleft(job for job, _cost in reversed(batch) if portable(job))
            self._loop.call_soon(self._dispatch)
            return
        self._limits.given(slot, batch)
        if self._watch.timer is None:
            self._watch.arm()
        if idle:
            self._report_started(head, slot)
        if len(slot.jobs) > 1 and self._check_timer is None:
            self._check_timer = self._loop.call_later(_CHECK_INTERVAL, self._check_children)

    def _refuse(self, jobs: list[Job]) -> None:
        note = "undecodable: the message holds a value that cannot be sent to another process"
        self._events.finished([Outcome(job.seq, INVALID, 0.0, None, note) for job in jobs])

    # ------------------------------------------------------------ outcomes out

    def _child_changed(self, slot: Slot) -> None:
        state = slot.state
        if state != shared_memory.STARTING and not slot.ready and slot.pid is not None:
            slot.ready = True
            self._collect(slot)
            self._dispatch()
            self._events.vacancy()
        else:
            self._collect(slot)
        if state > shared_memory.READY and not slot.retired:
            if state == shared_memory.LEAVING_MEMORY:
                logger.warning(
                    "child process exiting after exceeding memory limit (%sKiB / %sKiB)",
                    slot.page.words[shared_memory.MEMORY],
                    slot.spec.max_memory,
                )
            self._retire(slot)

    def _collect(self, slot: Slot) -> None:
        """Report the outcomes that the child in `slot` has produced."""
        records = slot.collect()
        if records:
            self._finish(slot, records)

    def _finish(self, slot: Slot, records: list[tuple[Any, ...]]) -> None:
        outcomes: list[Outcome] = []
        begun: list[int] = []
        reported = self._reported
        learn = self._costs.learn
        for record in records:
            seq = record[0]
            job = slot.end_job(seq)
            if job is None:
                logger.critical(
                    "Process %r reported the outcome of a job that it was not given: %s", slot.spec.name, seq
                )
                continue
            if record[1] == UNKNOWN_HERE and (self._supervisor.restarting or slot.retired):
                # The restart imports the task; this child has not been replaced yet.
                self._held.append(job)
                continue
            learn(job[2], record[2])
            if seq in reported:
                reported.discard(seq)
            else:
                begun.append(seq)
            if record[1] == SUCCESS:
                outcomes.append(as_outcome(record))
            else:
                outcomes.append(outcome_of(record, job, slot.pending_kill, self.context.outcome_for))
        if slot.pending_kill is not None and slot.pending_kill.job.seq not in slot.jobs:
            # The job ended first, but the signal may still reach this child: it must run no other job.
            slot.retire()
        self._dispatch_held()
        self._report(begun, outcomes, slot.pid or 0)

    def _dispatch_held(self) -> None:
        """Dispatch the jobs that waited for the restart."""
        if self._held and not self._supervisor.restarting:
            self._backlog.extendleft(reversed(self._held))
            self._held.clear()
        self._dispatch()

    def _report_started(self, seq: int, slot: Slot) -> None:
        """Report job `seq` as started, unless it was reported before."""
        if seq not in self._reported:
            self._reported.add(seq)
            self._events.started([seq], slot.pid or 0)

    def _report(self, begun: Sequence[int], outcomes: Sequence[Outcome], pid: int) -> None:
        if begun:
            self._events.started(begun, pid)
        if outcomes:
            for outcome in outcomes:
                self._reported.discard(outcome[0])
            self._events.finished(outcomes)

    # ------------------------------------------------------------ slow and dead children

    def _check_children(self) -> None:
        self._check_timer = None
        again = False
        for slot in list(self._supervisor.slots.values()):
            if not slot.jobs:
                continue
            self._collect(slot)
            current = slot.running()
            if current is not None:
                self._report_started(current[0].seq, slot)
            if len(slot.jobs) > 1:
                if current is None:
                    if monotonic() - slot.progress_at > _BEGIN_WITHIN:
                        # The first job stays: its end shows that the child runs again. `watchdog` takes that job
                        # back, too, if the child is stopped or never begins it.
                        slot.stalled = True
                        self._recall(slot, keep=(next(iter(slot.jobs)),))
                elif (elapsed := slot.elapsed()) > _STALL_AFTER:
                    slot.stalled = True
                    self._costs.learn_running(current[0].task, elapsed)
                    self._recall(slot)
            again = again or len(slot.jobs) > 1 or any(seq not in self._reported for seq in slot.jobs)
        if again and self._check_timer is None:
            self._check_timer = self._loop.call_later(_CHECK_INTERVAL, self._check_children)

    def _recall(self, slot: Slot, keep: Sequence[int] = ()) -> None:
        """Move the waiting jobs of `slot`, except those in `keep`, back to the backlog."""
        taken = slot.take_back(keep)
        if taken:
            self._backlog.extendleft(job for job, _cost in reversed(taken))
            # Later: the caller has yet to mark `slot` as not accepting jobs.
            self._loop.call_soon(self._dispatch)

    def _continued(self, slot: Slot) -> None:
        """Give jobs to the child in `slot`, which is no longer stopped."""
        if slot.accepts:
            self._dispatch()
            self._events.vacancy()

    def _retire(self, slot: Slot) -> None:
        """Let the child in `slot` exit after its current job."""
        slot.stalled = True
        self._recall(slot)
        slot.retire()
        self._watch.arm()

    def _exited(self, slot: Slot, status: int | None) -> None:
        slot.ready = False
        records = slot.collect_all()
        if records:
            self._finish(slot, records)
        self._recall(slot)
        current = slot.running()
        ended = None if current is None else current[0]
        pending_kill = slot.pending_kill
        if pending_kill is not None:
            slot.kill_group()
            if pending_kill.job.seq in slot.jobs:
                ended = pending_kill.job
        outcomes: list[Outcome] = []
        if ended is not None:
            runtime = slot.elapsed()
            slot.end_job(ended.seq)
            self._report_started(ended.seq, slot)
            if pending_kill is not None and ended is pending_kill.job:
                outcomes.append(self.context.outcome_for(ended, pending_kill.code, pending_kill.text, runtime))
            else:
                text = f"the process running the task (pid {slot.pid}) exited with {describe(status)}"
                outcomes.append(self.context.outcome_for(ended, WORKER_LOST, text, runtime))
        # These jobs were claimed but not begun: they can run elsewhere.
        self._backlog.extendleft(job for job, _cost in reversed(slot.jobs.values()))
        slot.jobs.clear()
        self._stats.note(slot)
        leaving = slot.retired or slot.state > shared_memory.READY
        expected = (
            (leaving and ended is None)
            or (pending_kill is not None and pending_kill.code == TERMINATED)
            or slot.given_up
        )
        if not (expected or self._supervisor.closing):
            self._oom.log_exit(slot.spec.name, slot.pid, status, unasked=pending_kill is None)
        self._report((), outcomes, 0)
        self._loop.call_soon(self._dispatch)

    # ------------------------------------------------------------ remote control

    def terminate(self, seq: int, signum: int = signal.SIGTERM) -> bool:
        """Send a signal to the child that runs job `seq`; return whether the job is terminated."""
        for slot in list(self._supervisor.slots.values()):
            if seq in slot.jobs and self._limits.terminate(slot, seq, signum):
                return True
        # The job was reported as started but has gone back to the backlog: drop it there.
        for job in (*self._backlog, *self._held):
            if job.seq == seq and seq in self._reported:
                (self._backlog if job in self._backlog else self._held).remove(job)
                outcome = self.context.outcome_for(job, TERMINATED, signal.Signals(signum).name, 0.0)
                self._loop.call_soon(self._report, (), [outcome], 0)
                return True
        return False

    def grow(self, n: int) -> None:
        """Add `n` children."""
        self._supervisor.grow(n)

    def shrink(self, n: int) -> None:
        """Remove `n` children, idle ones first, busy ones after their job; at least one stays."""
        self._supervisor.shrink(n)

    def restart(self, imports: Sequence[str] = (), fresh: bool = False) -> None:
        """Replace every child, after its current job, by one that has imported `imports`.

        `fresh`: a new fork server imports the application again and forks the new children. The old children stay until
        the imports succeed; if one fails, the error is logged and the old children stay. The running server cannot fork
        while it imports, so use `fresh` for slow imports.
        """
        self._supervisor.restart(imports, fresh)

    def info(self) -> dict[str, Any]:
        """Return the pool's part of `inspect stats`."""
        name = f"{type(self).__module__}:{type(self).__name__}"
        slots = list(self._supervisor.slots.values())
        return self._stats.info(name, self.context, self._supervisor.target, slots, len(self._backlog))
