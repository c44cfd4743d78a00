"""Pools that are broken on purpose, each in one way: what the suite for pools is there to find.

1. Each is a few lines over a pool that is whole. `MEANT` names the test that must notice.
2. `tests/testing/test_pool_suite.py` runs them; pytest does not collect this file by itself.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from typing import Any, ClassVar

from framework.api.pool import TIMED_OUT, WORKER_LOST, Outcome, Pool
from framework.api.thread_interrupt import _set_async_exc
from framework.testing.pools import PoolSuite
from framework_pools._slot import Interrupt
from framework_pools.prefork import PreforkPool
from framework_pools.threads import ThreadsPool


class Unbroken(ThreadsPool):
    """What most of them are made from. `told` is what core hears; a broken pool puts itself in between."""

    def __init__(self, context: Any, options: Any) -> None:
        super().__init__(context, options)
        self.told = self._events
        self._events = self

    def started(self, seqs, pid):
        self.told.started(seqs, pid)

    def finished(self, outcomes):
        self.told.finished(outcomes)

    def vacancy(self):
        self.told.vacancy()


class Greedy(Unbroken):
    """Takes ten jobs, however long they are: something waits in it on any machine."""

    def capacity(self):
        return max(0, 10 - len(self._jobs))


# ---------------------------------------------------------------- jobs


class LosesAJob(Unbroken):
    def submit(self, jobs):
        super().submit([job for job in jobs if job.seq % 50])
        if lost := [job.seq for job in jobs if not job.seq % 50]:
            self.told.started(lost, os.getpid())


class RunsAJobTwice(Unbroken):
    def submit(self, jobs):
        super().submit(jobs)
        for job in jobs:
            if not job.seq % 50:
                self.queue.put(job)


class NeverCallsBack(Unbroken):
    def finished(self, outcomes):
        pass


class EndsAJobTwice(Unbroken):
    def finished(self, outcomes):
        super().finished(outcomes)
        super().finished(outcomes[:1])


class MixesUpOutcomes(Unbroken):
    def finished(self, outcomes):
        notes = [outcome.note for outcome in outcomes]
        super().finished([each._replace(note=note) for each, note in zip(outcomes, notes[::-1], strict=True)])


class EndsBeforeItBegins(Unbroken):
    def started(self, seqs, pid):
        self._loop.call_later(0.05, self.told.started, seqs, pid)


class TellsTheBeginningAtTheEnd(Unbroken):
    def __init__(self, context, options):
        super().__init__(context, options)
        self.untold = set()

    def started(self, seqs, pid):
        self.untold.update(seqs)

    def finished(self, outcomes):
        self.told.started([outcome.seq for outcome in outcomes if outcome.seq in self.untold], os.getpid())
        super().finished(outcomes)


class ReportsFromAThread(Unbroken):
    def finished(self, outcomes):
        thread = threading.Thread(target=super().finished, args=(outcomes,))
        thread.start()
        thread.join()


class NamesAnotherProcess(Unbroken):
    def started(self, seqs, pid):
        super().started(seqs, pid + 1)


class CutsOutcomes(Unbroken):
    def finished(self, outcomes):
        super().finished([Outcome(*outcome[:5]) for outcome in outcomes])


class MendsPayloads(Unbroken):
    def submit(self, jobs):
        super().submit([job._replace(payload=_mended(job.payload)) for job in jobs])


def _mended(payload):
    return payload.strip() if isinstance(payload, bytes) else payload


class CannotCarryParts(Unbroken):
    def submit(self, jobs):
        super().submit([job._replace(payload=bytes(job.payload[4])) if job.payload[4:] else job for job in jobs])


class BlocksInSubmit(Unbroken):
    def submit(self, jobs):
        super().submit(jobs)
        while len(self._done) < len(jobs):
            time.sleep(0.001)


class AlwaysWantsMore(Unbroken):
    def capacity(self):
        return 10


class WantsLessThanNothing(Unbroken):
    def capacity(self):
        return self.size - 2 * len(self._jobs)


class RunsOneAtATime(Unbroken):
    def __init__(self, context, options):
        super().__init__(context, options)
        self.turn = threading.Lock()
        self.context = _but(context, workload=_around(context.workload, self._one_at_a_time))

    def _one_at_a_time(self, run, job):
        with self.turn:
            return run(job)


class HasASlotTooMany(Unbroken):
    def __init__(self, context, options):
        super().__init__(_but(context, concurrency=context.concurrency + 1), options)


class HoldsJobsUp(Greedy):
    """A batch waits until the one before it has ended."""

    def __init__(self, context, options):
        super().__init__(context, options)
        self.waiting = []

    def capacity(self):
        return max(0, super().capacity() - len(self.waiting))

    def submit(self, jobs):
        self.waiting.extend(jobs)
        self._next()

    def finished(self, outcomes):
        super().finished(outcomes)
        self._next()

    def _next(self):
        if self.waiting and not self._jobs:
            batch, self.waiting = self.waiting, []
            super().submit(batch)


class ForgetsTheDead(PreforkPool):
    """A job whose process has died has no end."""

    def _report(self, begun, outcomes, pid):
        super()._report(begun, [outcome for outcome in outcomes if outcome.code != WORKER_LOST], pid)


# ---------------------------------------------------------------- limits


class SwallowsTheSoftLimit(Unbroken):
    def submit(self, jobs):
        super().submit([job._replace(soft_limit=None) for job in jobs])


class TakesTheSoftLimitForAHardOne(Unbroken):
    def submit(self, jobs):
        super().submit([job._replace(soft_limit=None, hard_limit=job.soft_limit) for job in jobs])


class IgnoresTheHardLimit(Unbroken):
    def submit(self, jobs):
        super().submit([job._replace(hard_limit=None) for job in jobs])


class LetsAJobCatchTheHardLimit(Unbroken):
    def _abandon(self, slot, job):
        pass


class EndsTheNeighbourToo(Unbroken):
    def _interrupt_job(self, slot, job, code, text):
        for other in list(self.slots):
            if other is not slot and other.job is not None:
                super()._interrupt_job(other, other.job, code, text)
        return super()._interrupt_job(slot, job, code, text)


class CountsLimitsFromSubmission(Unbroken):
    def submit(self, jobs):
        super().submit(jobs)
        for job in jobs:
            if job.hard_limit is not None:
                self._loop.call_later(job.hard_limit, self._expire, job)

    def _expire(self, job):
        if self._jobs.pop(job.seq, None):
            if job.seq not in self._reported:
                self.told.started([job.seq], os.getpid())
            self.told.finished([self.context.outcome_for(job, TIMED_OUT, f"{job.hard_limit:g}", 0.0)])


class TakesItsInterruptForTheTasksOwn(Unbroken):
    interrupts = ()


class StrikesAnywhere(Unbroken):
    """As if whatever a thread does could be interrupted."""

    def _raise(self, slot, job, exception, kill=None):
        slot.pending_kill = kill
        return slot.job is job and bool(_set_async_exc(slot.ident, exception))


class TerminatesItsNeighbour(Unbroken):
    def terminate(self, seq, signum=15):
        for slot in self.slots:
            if slot.job is not None and slot.job.seq != seq:
                return super().terminate(slot.job.seq, signum)
        return False


class SaysItTerminatedWhatItDoesNotRun(Unbroken):
    def terminate(self, seq, signum=15):
        super().terminate(seq, signum)
        return True


class OnlySaysThatItTerminates(Unbroken):
    def terminate(self, seq, signum=15):
        return True


class StrikesTooLate(Unbroken):
    """An interruption hits the job that comes after the one that it was meant for, too."""

    def __init__(self, context, options):
        super().__init__(context, options)
        self.struck = 0
        self.context = _but(context, workload=_around(context.workload, self._strike))

    def _strike(self, run, job):
        if 0 < self.struck < job.seq:
            self.struck = 0
            raise Interrupt
        return run(job)

    def terminate(self, seq, signum=15):
        found = super().terminate(seq, signum)
        if found:
            self.struck = seq
        return found


# ---------------------------------------------------------------- slots


class DoesNotGrow(Unbroken):
    def grow(self, n):
        pass


class GrowsInSilence(Unbroken):
    def vacancy(self):
        pass


class ShrinksToNothing(Unbroken):
    def shrink(self, n):
        self.size = 0
        for _ in self.slots:
            self.queue.put(None)


class ShrinksByForce(Unbroken):
    def shrink(self, n):
        for slot in list(self.slots)[:n]:
            if slot.job is not None:
                self.terminate(slot.job.seq)
        super().shrink(n)


class ClaimsToBeFixedAndGrows(Unbroken):
    traits = ThreadsPool.traits.__class__(soft_limit=True, hard_limit=True, terminate=True, restart=True)


class TellsTooLittle(Unbroken):
    def info(self):
        found = super().info()
        del found["timeouts"], found["writes"]
        return found


class TellsWhatNoJsonCarries(Unbroken):
    def info(self):
        return super().info() | {"seats": set(self.slots)}


class NamesWhatDoesNotLive(Unbroken):
    def info(self):
        return super().info() | {"processes": [2**22 + 1, 2**22 + 2]}


class LosesJobsInARestart(Greedy):
    def restart(self, imports=(), fresh=False):
        self._empty_queue()
        super().restart(imports, fresh)


class RestartsByForce(Unbroken):
    def restart(self, imports=(), fresh=False):
        for slot in list(self.slots):
            if slot.job is not None:
                self.terminate(slot.job.seq)


class OnlySaysThatItRestarts(Unbroken):
    def restart(self, imports=(), fresh=False):
        pass


class ForgetsWhatToImport(PreforkPool):
    def restart(self, imports=(), fresh=False):
        super().restart((), fresh)


class AlwaysRestartsFresh(PreforkPool):
    def restart(self, imports=(), fresh=False):
        super().restart(imports, True)


class NeverRecycles(PreforkPool):
    def __init__(self, context, options):
        super().__init__(_but(context, max_tasks_per_child=None), options)


# ---------------------------------------------------------------- the interpreter


class ForgetsToPatch(Unbroken):
    @classmethod
    def patched(cls):
        return False


class PatchesOnceOnly(Unbroken):
    @classmethod
    def patch(cls):
        raise RuntimeError("patched already")


class TakesExceptionsForSomethingElse(Unbroken):
    interrupts = (ValueError,)


# ---------------------------------------------------------------- the end


class TakesRunningJobsBack(Unbroken):
    def quiesce(self):
        return [*super().quiesce(), *(slot.job.seq for slot in self.slots if slot.job is not None)]


class RunsWhatItGaveBack(Greedy):
    def __init__(self, context, options):
        super().__init__(context, options)
        self.given_back = set()

    def quiesce(self):
        waiting = [seq for seq in self._jobs if seq not in self._reported and seq not in self.given_back]
        self.given_back.update(waiting)
        return waiting


class DropsWhatItTakesBack(Greedy):
    def quiesce(self):
        super().quiesce()
        return []


class KillsWithoutAWord(Unbroken):
    def kill(self):
        self._jobs.clear()
        super().kill()


class RunsWhatWaitedWhenItIsKilled(Greedy):
    def _empty_queue(self):
        pass


class CannotBeStoppedTwice(Unbroken):
    def stop(self, deadline):
        if self.stopping:
            raise RuntimeError("stopped already")
        super().stop(deadline)


class CannotBeStoppedBeforeItStarts(Unbroken):
    def stop(self, deadline):
        if self._workload is None and not self.stopping:
            raise RuntimeError("not started")
        super().stop(deadline)


class StopsWheneverItLikes(Unbroken):
    def stop(self, deadline):
        super().stop(deadline + 60)


class StopsAtOnce(Unbroken):
    def stop(self, deadline):
        super().stop(0)


class WantsJobsWhenItHasEnded(Unbroken):
    def capacity(self):
        return max(0, self.size - len(self._jobs))


class LeaksAThread(Unbroken):
    def start(self):
        super().start()
        threading.Thread(target=threading.Event().wait, daemon=True, name="leaked").start()


class LeaksADescriptor(Unbroken):
    def start(self):
        super().start()
        os.open(os.devnull, os.O_RDONLY)


class LeaksAChild(Unbroken):
    children: ClassVar[list[Any]] = []

    def start(self):
        super().start()
        self.children.append(subprocess.Popen(["sleep", "60"]))


class LeaksAThreadWhenItRestarts(Unbroken):
    def restart(self, imports=(), fresh=False):
        super().restart(imports, fresh)
        threading.Thread(target=threading.Event().wait, daemon=True, name="leaked").start()


class LeaksADescriptorByForce(Unbroken):
    def _interrupt_job(self, slot, job, code, text):
        os.open(os.devnull, os.O_RDONLY)
        return super()._interrupt_job(slot, job, code, text)


def _around(make: Any, wrap: Any) -> Any:
    """Return a maker of workloads like `make`'s, in which `wrap` is called with the real `run` and the job."""

    def workload():
        made = make()
        run = made.run
        made.run = lambda job: wrap(run, job)
        return made

    return workload


def _but(context: Any, **changes: Any) -> Any:
    """Return `context` with `changes`."""
    return type(context)(**{name: getattr(context, name) for name in context.__struct_fields__} | changes)


#: Each broken pool and the tests that must notice; of a test with parameters, one of them must.
MEANT: dict[type[Pool], str] = {
    LosesAJob: "test_every_job_runs_once_and_ends_once",
    RunsAJobTwice: "test_every_job_runs_once_and_ends_once",
    NeverCallsBack: "test_every_job_runs_once_and_ends_once",
    EndsAJobTwice: "test_every_job_runs_once_and_ends_once",
    MixesUpOutcomes: "test_every_job_runs_once_and_ends_once",
    EndsBeforeItBegins: "test_a_job_begins_before_it_ends",
    ReportsFromAThread: "test_a_job_begins_before_it_ends",
    TellsTheBeginningAtTheEnd: "test_a_running_job_is_reported_while_it_runs",
    NamesAnotherProcess: "test_started_names_the_process",
    CutsOutcomes: "test_outcomes_come_home_unchanged",
    MendsPayloads: "test_any_payload_arrives_as_it_was[text]",
    CannotCarryParts: "test_any_payload_arrives_as_it_was[parts]",
    BlocksInSubmit: "test_submit_never_blocks",
    AlwaysWantsMore: "test_capacity_is_what_is_free_when_jobs_are_long",
    WantsLessThanNothing: "test_capacity_is_what_is_free_when_jobs_are_long",
    RunsOneAtATime: "test_jobs_run_side_by_side_in_all_slots_and_no_more",
    HasASlotTooMany: "test_jobs_run_side_by_side_in_all_slots_and_no_more",
    HoldsJobsUp: "test_a_long_job_holds_none_up_that_another_slot_could_run",
    ForgetsTheDead: "test_a_job_whose_process_dies_is_lost_alone",
    SwallowsTheSoftLimit: "test_the_soft_limit_can_be_caught",
    TakesTheSoftLimitForAHardOne: "test_the_soft_limit_can_be_caught",
    IgnoresTheHardLimit: "test_the_hard_limit_ends_a_job",
    LetsAJobCatchTheHardLimit: "test_the_hard_limit_cannot_be_caught",
    EndsTheNeighbourToo: "test_the_hard_limit_ends_only_its_job",
    StrikesAnywhere: "test_a_limit_leaves_no_lock_taken[condition-hard]",
    CountsLimitsFromSubmission: "test_limits_count_from_the_beginning_of_a_job",
    TerminatesItsNeighbour: "test_terminate_ends_only_its_job",
    SaysItTerminatedWhatItDoesNotRun: "test_terminate_tells_what_runs",
    OnlySaysThatItTerminates: "test_terminate_ends_a_job",
    TakesItsInterruptForTheTasksOwn: "test_terminate_ends_a_job",
    StrikesTooLate: "test_terminations_never_hit_the_next_job",
    DoesNotGrow: "test_growing_makes_room_at_once",
    GrowsInSilence: "test_growing_makes_room_at_once",
    ShrinksToNothing: "test_shrinking_leaves_one_slot",
    ShrinksByForce: "test_shrinking_loses_no_running_job",
    ClaimsToBeFixedAndGrows: "test_what_the_traits_rule_out_is_refused",
    TellsTooLittle: "test_info_has_every_key",
    TellsWhatNoJsonCarries: "test_info_has_every_key",
    NamesWhatDoesNotLive: "test_info_names_what_lives",
    LosesJobsInARestart: "test_a_restart_loses_nothing",
    RestartsByForce: "test_a_restart_lets_the_running_job_end",
    OnlySaysThatItRestarts: "test_a_fresh_restart_runs_the_code_on_disk",
    ForgetsWhatToImport: "test_a_restart_imports_what_it_is_told",
    AlwaysRestartsFresh: "test_a_plain_restart_keeps_the_code",
    NeverRecycles: "test_no_process_runs_more_jobs_than_it_may",
    ForgetsToPatch: "test_the_interpreter_is_patched",
    PatchesOnceOnly: "test_patching_again_is_harmless",
    TakesExceptionsForSomethingElse: "test_interrupts_are_no_exceptions",
    TakesRunningJobsBack: "test_quiesce_takes_back_what_has_not_begun",
    RunsWhatItGaveBack: "test_quiesce_takes_back_what_has_not_begun",
    DropsWhatItTakesBack: "test_quiesce_takes_back_what_has_not_begun",
    KillsWithoutAWord: "test_kill_ends_what_runs",
    RunsWhatWaitedWhenItIsKilled: "test_kill_ends_what_runs",
    CannotBeStoppedTwice: "test_ends_in_any_order_and_twice[stop-stop]",
    CannotBeStoppedBeforeItStarts: "test_stop_before_start_is_harmless",
    StopsWheneverItLikes: "test_stop_keeps_its_deadline",
    StopsAtOnce: "test_stop_waits_for_what_runs",
    WantsJobsWhenItHasEnded: "test_a_pool_that_has_ended_wants_no_jobs[kill]",
    LeaksAThread: "test_ten_lives_leave_nothing_behind",
    LeaksADescriptor: "test_ten_lives_leave_nothing_behind",
    LeaksAChild: "test_ten_lives_leave_nothing_behind",
    LeaksAThreadWhenItRestarts: "test_ten_restarts_leave_nothing_behind",
    LeaksADescriptorByForce: "test_jobs_ended_by_force_leave_nothing_behind",
}


class TestUnbroken(PoolSuite):
    """The control group: what the broken ones are made from passes everything."""

    pool = Unbroken
    patience = 5
    many = 1_000


for _pool in MEANT:
    _name = f"Test{_pool.__name__}"
    globals()[_name] = type(_name, (PoolSuite,), {"pool": _pool, "patience": 1.0, "many": 500, "__module__": __name__})
