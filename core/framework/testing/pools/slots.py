"""Remote control of a pool: figures for `inspect stats`, growing and shrinking, restarting, recycling."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from framework.api.pool import SUCCESS
from framework.testing import ledger
from framework.testing.harness import Harness
from framework.testing.pools.base import Bench, PoolSuiteBase, needs
from framework.testing.pools.jobs import most_at_once
from framework.testing.survey import is_alive, is_thread
from framework.testing.wait import wait_for

KEYS = {
    "implementation",
    "max-concurrency",
    "processes",
    "max-tasks-per-child",
    "put-guarded-by-semaphore",
    "timeouts",
    "writes",
}
#: Methods that a pool without the trait refuses, with arguments.
REFUSED: Final[dict[str, list[tuple[str, tuple[int, ...]]]]] = {
    "resize": [("grow", (1,)), ("shrink", (1,))],
    "terminate": [("terminate", (1, 15))],
    "restart": [("restart", ())],
}


class Module:
    """A module on disk that jobs import and tests change."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.name = f"module_{uuid4().hex}"
        self.path = directory / f"{self.name}.py"

    def write(self, value: int) -> None:
        """Write VALUE = `value` to the file."""
        # Each value has its own file size: Python identifies compiled code by mtime and size, and mtime may be equal.
        self.path.write_text(f"VALUE = {value}{' ' * value}\n")

    def reload(self) -> None:
        """Import or reload the module in this process, as core does before it restarts a pool."""
        importlib.invalidate_caches()
        if self.name in sys.modules:
            importlib.reload(sys.modules[self.name])
        else:
            importlib.import_module(self.name)


class SlotPromises(PoolSuiteBase):
    """Tests of slots."""

    @pytest.fixture
    def module(self, start: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
        """Yield a module whose VALUE is 1, importable in this process and where jobs run."""
        module = Module(start.modules)
        module.write(1)
        monkeypatch.syspath_prepend(str(start.modules))
        yield module
        sys.modules.pop(module.name, None)

    def test_info_has_every_key(self, start: Bench) -> None:
        """`info` returns every key of `inspect stats`, with JSON values of the right types."""
        pool = start()
        pool.run(b"noop")
        info = pool.info()
        assert sorted(KEYS - info.keys()) == []
        json.dumps(info)
        assert info["max-concurrency"] == start.slots
        assert info["timeouts"] == [0, 0]
        module, _, name = info["implementation"].partition(":")
        assert getattr(importlib.import_module(module), name) is not None

    def test_info_names_what_lives(self, start: Bench) -> None:
        """``processes`` lists each live process, or each live thread of this process, once."""
        pool = start()
        pool.run(*[b"sleep:0.01"] * 4)
        ids = pool.pids()
        assert ids
        assert len(set(ids)) == len(ids)
        assert [each for each in ids if not (is_alive(each) or is_thread(each))] == []
        if start.traits.processes:
            wait_for(lambda: len(pool.pids()) == start.slots, self.patience, "every process")

    def test_info_tells_the_workers_own_limits(self, start: Bench) -> None:
        """``timeouts`` has the limits of the `PoolContext`, not those of single jobs."""
        assert start(soft_limit=1.5, hard_limit=3).info()["timeouts"] == [1.5, 3]

    def test_info_tells_how_jobs_were_spread(self, start: Bench) -> None:
        """``writes`` has the number of jobs: in total, by process, and the share of each process."""
        pool = start()
        assert pool.info()["writes"]["total"] == 0
        pool.run(*[b"noop"] * 40)
        writes = pool.info()["writes"]
        counts = [int(count) for count in writes["raw"].split(", ")]
        assert writes["total"] == sum(counts) == 40
        shares = [float(share.rstrip("%")) for share in writes["all"].split(", ")]
        assert shares == [pytest.approx(count / 40 * 100, abs=0.01) for count in counts]
        assert writes["avg"] == f"{1 / len(counts):.2%}"

    @needs("processes")
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP], ids=lambda signum: signum.name)
    def test_a_process_leaves_the_workers_signals_to_it(self, start: Bench, signum: signal.Signals) -> None:
        """TERM, QUIT and HUP that others send to a process end neither the process nor its job."""
        pool = start(1)
        gate = start.gate()
        [seq] = pool.submit(b"await:%s;pid" % bytes(gate))
        pid = pool.wait_begun(seq)
        os.kill(pid, signum)
        gate.touch()
        [outcome] = pool.wait([seq])
        assert (outcome.code, outcome.note) == (SUCCESS, str(pid))
        os.kill(pid, signum)
        assert pool.run(b"pid")[0].note == str(pid)

    @needs("processes")
    def test_a_process_that_is_slow_to_start_is_waited_for(self, start: Bench) -> None:
        """A process whose set-up takes less than `start_timeout` runs the jobs that wait for it."""
        gate = start.gate()
        pool = start(1, {"set_up": str(gate)}, start_timeout=self.patience)
        wait_for(lambda: ledger.size(pool.ledger) == 1, self.patience, "the set-up to begin")
        seqs = pool.submit(*[b"pid"] * 3)
        gate.touch()
        assert len({outcome.note for outcome in pool.wait(seqs)}) == 1
        assert ledger.lines(pool.ledger) == ["set up"]

    @needs("processes")
    def test_a_process_that_does_not_start_is_replaced(self, start: Bench) -> None:
        """A process whose set-up takes longer than `start_timeout` is replaced, and the jobs run in another."""
        gate = start.gate()
        pool = start(1, {"set_up": str(gate)}, start_timeout=0.2)
        seqs = pool.submit(*[b"noop"] * 3)
        wait_for(lambda: ledger.size(pool.ledger) >= 2, self.patience, "another process")
        gate.touch()
        assert {outcome.code for outcome in pool.wait(seqs)} == {SUCCESS}

    def test_started_names_the_process(self, start: Bench) -> None:
        """`started` reports the pid of the process that runs the job: one of the pool's, or this one."""
        pool = start()
        seqs = pool.submit(*[b"sleep:0.01;pid"] * 10)
        outcomes = pool.wait(seqs)
        for seq, outcome in zip(seqs, outcomes, strict=True):
            assert int(outcome.note) == pool.begun[seq][0]
        if start.traits.processes:
            assert {int(outcome.note) for outcome in outcomes} <= set(pool.pids()) - {os.getpid()}
        else:
            assert {outcome.note for outcome in outcomes} == {str(os.getpid())}

    def test_what_the_traits_rule_out_is_refused(self, start: Bench) -> None:
        """A method that needs a missing trait raises NotImplementedError and has no effect."""
        pool = start()
        for trait, requests in REFUSED.items():
            if not getattr(start.traits, trait):
                for method, arguments in requests:
                    with pytest.raises(NotImplementedError):
                        pool.call(getattr(pool.pool, method), *arguments)
        assert pool.run(b"noop")[0].code == SUCCESS

    # ------------------------------------------------------------ grow and shrink

    @needs("resize")
    def test_growing_makes_room_at_once(self, start: Bench) -> None:
        """Two waiting jobs start as soon as a pool with two busy slots grows by two."""
        pool = start(2)
        four = pool.submit(*[b"note:in;meet:4;note:out"] * 4)
        pool.wait_begun(*four[:2])
        pool.call(pool.pool.grow, 2)
        assert {outcome.code for outcome in pool.wait(four)} == {SUCCESS}
        assert pool.info()["max-concurrency"] == 4
        assert {outcome.code for outcome in pool.run(*[b"note:in;sleep:0.02;note:out"] * 12)} == {SUCCESS}
        assert most_at_once(pool) == 4

    @needs("resize")
    def test_shrinking_leaves_one_slot(self, start: Bench) -> None:
        """A pool never shrinks below one slot."""
        pool = start(4)
        pool.run(*[b"sleep:0.02"] * 8)
        pool.call(pool.pool.shrink, 10)
        self._has_slots(pool, 1)
        assert {outcome.code for outcome in pool.run(*[b"note:in;sleep:0.01;note:out"] * 8)} == {SUCCESS}
        assert most_at_once(pool) == 1

    @needs("resize")
    def test_shrinking_loses_no_running_job(self, start: Bench) -> None:
        """A busy slot is removed after its job has ended."""
        pool = start(3)
        gate = start.gate()
        seqs = pool.submit(*[b"note:in;await:%s" % bytes(gate)] * 3)
        wait_for(lambda: ledger.size(pool.ledger) == 3, self.patience, "three jobs to be inside")
        pool.call(pool.pool.shrink, 2)
        gate.touch()
        assert {outcome.code for outcome in pool.wait(seqs)} == {SUCCESS}
        self._has_slots(pool, 1)
        assert pool.run(b"noop")[0].code == SUCCESS

    @needs("resize")
    def test_growing_and_shrinking_while_jobs_run(self, start: Bench) -> None:
        """Growing and shrinking while hundreds of jobs run loses no job and runs none twice."""
        pool = start(2)
        seqs = pool.submit(*[b"note:%d;sleep:0.002" % number for number in range(300)])
        for number, step in enumerate([3, -2, 2, -4, 1, -1, 3]):
            pool.wait_ended(number * 40)
            pool.call(pool.pool.grow if step > 0 else pool.pool.shrink, abs(step))
        assert {outcome.code for outcome in pool.wait(seqs)} == {SUCCESS}
        pool.check_ledger(range(300))

    def _has_slots(self, pool: Harness, number: int) -> None:
        def settled() -> bool:
            info = pool.info()
            right: bool = info["max-concurrency"] == number
            return right and (not pool.pool.traits.processes or len(info["processes"]) == number)

        wait_for(settled, self.patience, lambda: f"{number} slots; there are {pool.info()}")

    # ------------------------------------------------------------ restart

    @needs("restart")
    def test_a_restart_loses_nothing(self, start: Bench) -> None:
        """Three restarts while hundreds of jobs run: every job runs once and succeeds."""
        pool = start()
        seqs = pool.submit(*[b"note:%d;sleep:0.002" % number for number in range(400)])
        for mark in (50, 150, 250):
            pool.wait_ended(mark)
            pool.call(pool.pool.restart)
        assert {outcome.code for outcome in pool.wait(seqs)} == {SUCCESS}
        pool.check_ledger(range(400))

    @needs("restart")
    def test_a_restart_lets_the_running_job_end(self, start: Bench) -> None:
        """A slot is replaced after its current job has ended, and other slots keep working meanwhile."""
        pool = start()
        gate = start.gate()
        [seq] = pool.submit(b"note:in;await:%s" % bytes(gate))
        pool.wait_begun(seq)
        wait_for(lambda: ledger.size(pool.ledger) == 1, self.patience, "the job to be inside")
        pool.call(pool.pool.restart)
        if start.slots > 1:
            assert pool.run(b"noop")[0].code == SUCCESS
        assert seq not in pool.ended
        gate.touch()
        assert pool.wait([seq])[0].code == SUCCESS

    @needs("restart", "processes")
    def test_a_restart_replaces_every_process(self, start: Bench) -> None:
        """A restart replaces all processes with the same number of new ones."""
        pool = start()
        wait_for(lambda: len(pool.pids()) == start.slots, self.patience, "every process")
        before = set(pool.pids())
        pool.call(pool.pool.restart)
        self._replaced(pool, before, start.slots)
        assert pool.run(b"noop")[0].code == SUCCESS

    def _replaced(self, pool: Harness, before: set[int], number: int) -> None:
        def done() -> bool:
            pids = set(pool.pids())
            return len(pids) == number and not pids & before and not any(map(is_alive, before))

        wait_for(done, self.patience, lambda: f"the processes {before} to be replaced; there are {pool.pids()}")

    @needs("restart", "processes")
    def test_a_restart_imports_what_it_is_told(self, start: Bench, module: Module) -> None:
        """Processes started after the restart import the given modules, including later replacements."""
        pool = start()
        imported = f"imported:{module.name}".encode()
        assert pool.run(imported)[0].note == "no"
        module.reload()
        pool.call(pool.pool.restart, (module.name,))
        wait_for(lambda: pool.run(imported)[0].note == "yes", self.patience, "the module to be imported")
        wait_for(lambda: len(pool.pids()) == start.slots, self.patience, "every process")
        pool.run(*[b"exit:0"] * start.slots)
        notes = {outcome.note for outcome in pool.run(*[imported] * 10)}
        assert notes == {"yes"}

    @needs("restart")
    def test_a_fresh_restart_runs_the_code_on_disk(self, start: Bench, module: Module) -> None:
        """With `fresh`, the pool runs the code that is on disk now."""
        module.reload()
        pool = start(recipe={"module": module.name})
        assert pool.run(b"value")[0].note == "1"
        module.write(2)
        module.reload()
        pool.call(pool.pool.restart, (), True)
        wait_for(lambda: pool.run(b"value")[0].note == "2", self.patience, "the code on disk to be run")

    @needs("restart", "processes")
    def test_a_plain_restart_keeps_the_code(self, start: Bench, module: Module) -> None:
        """Without `fresh`, the pool keeps running the code that it has loaded."""
        pool = start(recipe={"module": module.name})
        assert pool.run(b"value")[0].note == "1"
        wait_for(lambda: len(pool.pids()) == start.slots, self.patience, "every process")
        before = set(pool.pids())
        module.write(2)
        pool.call(pool.pool.restart)
        self._replaced(pool, before, start.slots)
        assert {outcome.note for outcome in pool.run(*[b"value"] * 10)} == {"1"}

    # ------------------------------------------------------------ recycling

    @needs("recycles")
    def test_no_process_runs_more_jobs_than_it_may(self, start: Bench) -> None:
        """No process runs more than `max_tasks_per_child` jobs, and no job is lost when a process is replaced."""
        pool = start(max_tasks_per_child=5)
        outcomes = pool.run(*[b"note:%d;pid" % number for number in range(60)])
        assert max(Counter(outcome.note for outcome in outcomes).values()) <= 5
        pool.check_ledger(range(60))
