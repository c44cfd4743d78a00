"""The prefork pool's driver: gives jobs to children and brings their outcomes home.

1. Spreads jobs over the children, see `spread`. What fits nowhere waits here.
2. Tells core which jobs have begun: at once for a job given to an idle child, else when the shared page shows it or
   its outcome arrives.
3. Looks every few milliseconds, only while jobs wait inside children: takes them back from a child that is in one job
   for longer than expected, for others to run.
4. When a child dies, the job it was in gets a verdict; those that it had not begun go to other children.
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
from framework.api.pool import (
    INVALID,
    SUCCESS,
    TERMINATED,
    WORKER_LOST,
    Job,
    Outcome,
    Pool,
    PoolContext,
    PoolTraits,
)
from framework.exceptions import ConfigError, FrameworkError
from framework_pools._costs import Costs
from framework_pools.prefork import shared_memory as shared_memory
from framework_pools.prefork.assignment import Batch, room, spread
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

#: Seconds between two looks at children in which jobs wait.
_LOOK: Final = 0.01
#: Seconds that a child may be in one job before those behind it are given to others.
_STALL: Final = 0.02
#: Seconds that a child may take to begin with what it was given (it may be stopped, or the machine busy).
_DEAF: Final = 0.1
#: Seconds to wait for the loop to let go of the pool when it stops.
_HAND_OVER: Final = 0.5


class PreforkPool(Pool):
    """Runs each job in one of a number of child processes."""

    options_type: ClassVar[type[msgspec.Struct]] = PreforkOptions
    traits: ClassVar[PoolTraits] = PoolTraits(
        processes=True,
        soft_limit=True,
        hard_limit=True,
        terminate=True,
        resize=True,
        restart=True,
        recycles=True,
    )

    def __init__(self, context: PoolContext, options: msgspec.Struct) -> None:
        super().__init__(context, options)
        if context.start_method not in START_METHODS:
            raise ConfigError(
                f"the pool prefork cannot start its children by {context.start_method!r}: "
                f"choose {' or '.join(START_METHODS)} with --pool-start-method"
            )
        self._loop = context.loop
        self._events = context.events
        self._costs = Costs()
        self._supervisor = Supervisor(context, self._news, self._exited, self._leave, self._restarted)
        self._watch = Watch(
            context, self.options.stuck_after, self._supervisor.slots, self._settle, self._recall, self._revive
        )
        self._limits = Limits(self._loop, self._watch.stacks, self._settle, self._recall)
        #: Jobs that no child has.
        self._backlog: deque[Job] = deque()
        #: Jobs of tasks that the children do not know yet, while a restart is under way.
        self._held: list[Job] = []
        #: Jobs that core was told have begun, and that have not ended.
        self._reported: set[int] = set()
        self._look_timer: Timer | None = None
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
        """Start the fork server, which imports the application while the worker goes on starting."""
        if not self._stopped:
            self._supervisor.prestart()

    def start(self) -> None:
        """Wait for the fork server and ask for the children.

        Raises `ConfigError` if the application cannot be imported, `FrameworkError` if the server is killed meanwhile.
        """
        self._started = True
        try:
            self._supervisor.start()
        except FrameworkError:
            self.stop(0.0)
            raise

    def stop(self, deadline: float) -> None:
        """Let the children leave, until `deadline`; then kill them."""
        if self._stopped:
            return
        self._stopped = True
        if self._started:
            done = threading.Event()
            if self._loop.running:
                # It would see descriptors close under it: it lets go first.
                self._loop.call_soon_threadsafe(self._let_go, done)
                done.wait(_HAND_OVER)
            self._let_go(done)
        self._supervisor.end(deadline)

    def _let_go(self, done: threading.Event) -> None:
        if not done.is_set():
            if self._look_timer is not None:
                self._look_timer.cancel()
                self._look_timer = None
            self._watch.cancel()
            self._supervisor.detach()
            done.set()

    def kill(self) -> None:
        """Kill every child; what was running is TERMINATED, what was waiting is forgotten."""
        self._supervisor.close()
        unclaimed = [*self._held, *self._backlog]
        self._held.clear()
        self._backlog.clear()
        for slot in self._supervisor.slots.values():
            unclaimed += [job for job, _cost in slot.take_back()]
        self._supervisor.kill()
        # What core believes to have begun needs an end, also if it has not got as far as that.
        torn = [self._torn(job, 0.0) for job in unclaimed if job.seq in self._reported]
        for slot in list(self._supervisor.slots.values()):
            self._settle(slot)
            for job, _cost in slot.jobs.values():
                torn.append(self._torn(job, slot.elapsed()))
                self._report(job.seq, slot)
            slot.jobs.clear()
        self._tell((), torn, 0)

    def _torn(self, job: Job, runtime: float) -> Outcome:
        return self.context.outcome_for(job, TERMINATED, "SIGKILL", runtime)

    def quiesce(self) -> list[int]:
        """Take back what has not begun."""
        for slot in self._supervisor.slots.values():
            # What core believes to have begun is as good as running: it stays and runs.
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
        """Return how many more jobs of the recent mix fit into the children."""
        if self._supervisor.closing:
            return 0
        return max(0, room(self._supervisor.slots, self._costs) - len(self._backlog) - len(self._held))

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
            self._report(head, slot)
        if len(slot.jobs) > 1 and self._look_timer is None:
            self._look_timer = self._loop.call_later(_LOOK, self._look)

    def _refuse(self, jobs: list[Job]) -> None:
        note = "undecodable: the message holds a value that cannot be carried to another process"
        self._events.finished([Outcome(job.seq, INVALID, 0.0, None, note) for job in jobs])

    # ------------------------------------------------------------ outcomes out

    def _news(self, slot: Slot) -> None:
        state = slot.state
        if state != shared_memory.STARTING and not slot.ready and slot.pid is not None:
            slot.ready = True
            self._settle(slot)
            self._dispatch()
            self._events.vacancy()
        else:
            self._settle(slot)
        if state > shared_memory.READY and not slot.retired:
            if state == shared_memory.LEAVING_MEMORY:
                logger.warning(
                    "child process exiting after exceeding memory limit (%sKiB / %sKiB)",
                    slot.page.words[shared_memory.MEMORY],
                    slot.spec.max_memory,
                )
            self._leave(slot)

    def _settle(self, slot: Slot) -> None:
        """Report the outcomes that `slot` has so far."""
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
                logger.critical("Process %r reported a job that it does not have: %s", slot.spec.name, seq)
                continue
            if record[1] == UNKNOWN_HERE and (self._supervisor.restarting or slot.retired):
                # A restart has told the worker of the task before this child was replaced.
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
            # It ended before the signal did its work; a signal may still be on its way to this child.
            slot.retire()
        self._restarted()
        self._tell(begun, outcomes, slot.pid or 0)

    def _restarted(self) -> None:
        """Give out again what the former children did not know."""
        if self._held and not self._supervisor.restarting:
            self._backlog.extendleft(reversed(self._held))
            self._held.clear()
        self._dispatch()

    def _report(self, seq: int, slot: Slot) -> None:
        """Tell core that `seq` has begun, unless it knows."""
        if seq not in self._reported:
            self._reported.add(seq)
            self._events.started([seq], slot.pid or 0)

    def _tell(self, begun: Sequence[int], outcomes: Sequence[Outcome], pid: int) -> None:
        if begun:
            self._events.started(begun, pid)
        if outcomes:
            for outcome in outcomes:
                self._reported.discard(outcome[0])
            self._events.finished(outcomes)

    # ------------------------------------------------------------ surprises

    def _look(self) -> None:
        self._look_timer = None
        again = False
        for slot in list(self._supervisor.slots.values()):
            if not slot.jobs:
                continue
            self._settle(slot)
            current = slot.running()
            if current is not None:
                self._report(current[0].seq, slot)
            if len(slot.jobs) > 1:
                if current is None:
                    if monotonic() - slot.touched > _DEAF:
                        # Its first job stays: when that ends, the child is known to be well again. If it is stopped,
                        # or deaf for good, `watch` takes that job away, too.
                        slot.stalled = True
                        self._recall(slot, keep=(next(iter(slot.jobs)),))
                elif (elapsed := slot.elapsed()) > _STALL:
                    slot.stalled = True
                    self._costs.surprise(current[0].task, elapsed)
                    self._recall(slot)
            again = again or len(slot.jobs) > 1 or any(seq not in self._reported for seq in slot.jobs)
        if again and self._look_timer is None:
            self._look_timer = self._loop.call_later(_LOOK, self._look)

    def _recall(self, slot: Slot, keep: Sequence[int] = ()) -> None:
        """Have the waiting jobs of `slot`, but for those in `keep`, run elsewhere."""
        taken = slot.take_back(keep)
        if taken:
            self._backlog.extendleft(job for job, _cost in reversed(taken))
            # Not now: whoever recalls is about to say that `slot` takes no more.
            self._loop.call_soon(self._dispatch)

    def _revive(self, slot: Slot) -> None:
        """Give jobs to the child in `slot` again."""
        if slot.accepts:
            self._dispatch()
            self._events.vacancy()

    def _leave(self, slot: Slot) -> None:
        """Let the child in `slot` end when it has done what it has begun."""
        slot.stalled = True
        self._recall(slot)
        slot.retire()
        self._watch.arm()

    def _exited(self, slot: Slot, status: int | None) -> None:
        slot.ready = False
        records = slot.last_words()
        if records:
            self._finish(slot, records)
        self._recall(slot)
        current = slot.running()
        ended = None if current is None else current[0]
        pending_kill = slot.pending_kill
        if pending_kill is not None:
            slot.sweep()
            if pending_kill.job.seq in slot.jobs:
                ended = pending_kill.job
        verdicts: list[Outcome] = []
        if ended is not None:
            runtime = slot.elapsed()
            slot.end_job(ended.seq)
            self._report(ended.seq, slot)
            if pending_kill is not None and ended is pending_kill.job:
                verdicts.append(self.context.outcome_for(ended, pending_kill.code, pending_kill.text, runtime))
            else:
                text = f"the process running the task (pid {slot.pid}) exited with {describe(status)}"
                verdicts.append(self.context.outcome_for(ended, WORKER_LOST, text, runtime))
        # Claimed, but not begun: as good as waiting.
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
            self._oom.tell(slot.spec.name, slot.pid, status, unasked=pending_kill is None)
        self._tell((), verdicts, 0)
        self._loop.call_soon(self._dispatch)

    # ------------------------------------------------------------ remote control

    def terminate(self, seq: int, signum: int = signal.SIGTERM) -> bool:
        """Send a signal to the child that is in the job `seq`."""
        for slot in list(self._supervisor.slots.values()):
            if seq in slot.jobs and self._limits.terminate(slot, seq, signum):
                return True
        # On its way into a child when core was told that it begins: it is caught before it does.
        for job in (*self._backlog, *self._held):
            if job.seq == seq and seq in self._reported:
                (self._backlog if job in self._backlog else self._held).remove(job)
                verdict = self.context.outcome_for(job, TERMINATED, signal.Signals(signum).name, 0.0)
                self._loop.call_soon(self._tell, (), [verdict], 0)
                return True
        return False

    def grow(self, n: int) -> None:
        """Add `n` children."""
        self._supervisor.grow(n)

    def shrink(self, n: int) -> None:
        """Let `n` children leave, idle ones first, busy ones after their job; one stays."""
        self._supervisor.shrink(n)

    def restart(self, imports: Sequence[str] = (), fresh: bool = False) -> None:
        """Replace every child after its current job by one that has imported `imports`.

        `fresh`: by one of a new fork server, which imports the application anew. Either way the old children stay until
        all that has been imported; if a module cannot be, the log says where it failed, and the pool goes on as it was.
        While the running server imports, no child can be replaced: imports that take long are better done `fresh`.
        """
        self._supervisor.restart(imports, fresh)

    def info(self) -> dict[str, Any]:
        """Return the pool's part of `inspect stats`."""
        name = f"{type(self).__module__}:{type(self).__name__}"
        slots = list(self._supervisor.slots.values())
        return self._stats.info(name, self.context, self._supervisor.size, slots, len(self._backlog))
