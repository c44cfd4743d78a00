"""What remote control asks of a pool: what it tells about itself, growing and shrinking, restarting, recycling."""

from __future__ import annotations

import importlib
import json
import os
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
#: What a pool without the trait refuses.
REFUSED: Final[dict[str, list[tuple[str, tuple[int, ...]]]]] = {
    "resize": [("grow", (1,)), ("shrink", (1,))],
    "terminate": [("terminate", (1, 15))],
    "restart": [("restart", ())],
}


class Module:
    """A module that jobs can import, and that changes on disk."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.name = f"module_{uuid4().hex}"
        self.path = directory / f"{self.name}.py"

    def write(self, value: int) -> None:
        """Have VALUE be `value` on disk."""
        # A size of its own for each value: compiled code is looked up by time and size, and time may stand still.
        self.path.write_text(f"VALUE = {value}{' ' * value}\n")

    def reload(self) -> None:
        """Import the module in this process, or once more, as the core does before it restarts a pool."""
        importlib.invalidate_caches()
        if self.name in sys.modules:
            importlib.reload(sys.modules[self.name])
        else:
            importlib.import_module(self.name)


class SlotPromises(PoolSuiteBase):
    """A pool's slots."""

    @pytest.fixture
    def module(self, start: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
        """A module whose VALUE is 1, importable here and where jobs run."""
        module = Module(start.modules)
        module.write(1)
        monkeypatch.syspath_prepend(str(start.modules))
        yield module
        sys.modules.pop(module.name, None)

    def test_info_has_every_key(self, start: Bench) -> None:
        """What `inspect stats` shows: every key, right types, and nothing that JSON cannot carry."""
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
        """``processes`` are pids of living processes, or ids of living threads of this one, each named once."""
        pool = start()
        pool.run(*[b"sleep:0.01"] * 4)
        ids = pool.pids()
        assert ids
        assert len(set(ids)) == len(ids)
        assert [each for each in ids if not (is_alive(each) or is_thread(each))] == []
        if start.traits.processes:
            wait_for(lambda: len(pool.pids()) == start.slots, self.patience, "every process")

    def test_info_tells_the_workers_own_limits(self, start: Bench) -> None:
        """``timeouts`` is what the context says, whatever limits single jobs have."""
        assert start(soft_limit=1.5, hard_limit=3).info()["timeouts"] == [1.5, 3]

    def test_info_tells_how_jobs_were_spread(self, start: Bench) -> None:
        """``writes``: the total, the share and the number of each process."""
        pool = start()
        assert pool.info()["writes"]["total"] == 0
        pool.run(*[b"noop"] * 40)
        writes = pool.info()["writes"]
        counts = [int(count) for count in writes["raw"].split(", ")]
        assert writes["total"] == sum(counts) == 40
        shares = [float(share.rstrip("%")) for share in writes["all"].split(", ")]
        assert shares == [pytest.approx(count / 40 * 100, abs=0.01) for count in counts]
        assert writes["avg"] == f"{1 / len(counts):.2%}"

    def test_started_names_the_process(self, start: Bench) -> None:
        """The pid of `started` is where the job runs: a process of the pool's, or this one."""
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
        """Without the trait, a request raises NotImplementedError and harms nothing."""
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
        """Two slots are busy and two jobs are waiting to be let in: two slots more, and all four run side by side."""
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
        """However many are taken away, one stays, and one job runs at a time."""
        pool = start(4)
        pool.run(*[b"sleep:0.02"] * 8)
        pool.call(pool.pool.shrink, 10)
        self._has_slots(pool, 1)
        assert {outcome.code for outcome in pool.run(*[b"note:in;sleep:0.01;note:out"] * 8)} == {SUCCESS}
        assert most_at_once(pool) == 1

    @needs("resize")
    def test_shrinking_loses_no_running_job(self, start: Bench) -> None:
        """Slots that are in a job go when it has ended."""
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
        """Up and down while hundreds of jobs go through: none is lost, none runs twice."""
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
        """Three restarts while hundreds of jobs go through: every one runs once and succeeds."""
        pool = start()
        seqs = pool.submit(*[b"note:%d;sleep:0.002" % number for number in range(400)])
        for mark in (50, 150, 250):
            pool.wait_ended(mark)
            pool.call(pool.pool.restart)
        assert {outcome.code for outcome in pool.wait(seqs)} == {SUCCESS}
        pool.check_ledger(range(400))

    @needs("restart")
    def test_a_restart_lets_the_running_job_end(self, start: Bench) -> None:
        """A slot is replaced after its current job, however long that takes, and others go on meanwhile."""
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
        """None of the old processes is left, and there are as many new ones."""
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
        """Slots made from then on have imported the modules, also those that replace others later."""
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
        """`fresh`: what is on disk now. Where jobs run in this process, the workload is made anew."""
        module.reload()
        pool = start(recipe={"module": module.name})
        assert pool.run(b"value")[0].note == "1"
        module.write(2)
        module.reload()
        pool.call(pool.pool.restart, (), True)
        wait_for(lambda: pool.run(b"value")[0].note == "2", self.patience, "the code on disk to be run")

    @needs("restart", "processes")
    def test_a_plain_restart_keeps_the_code(self, start: Bench, module: Module) -> None:
        """Not `fresh`: what the pool has run so far, whatever is on disk."""
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
        """`max_tasks_per_child`: never one more in a process, and no job is lost when it is replaced."""
        pool = start(max_tasks_per_child=5)
        outcomes = pool.run(*[b"note:%d;pid" % number for number in range(60)])
        assert max(Counter(outcome.note for outcome in outcomes).values()) <= 5
        pool.check_ledger(range(60))
