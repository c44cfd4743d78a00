"""Restarts of the pool of processes: which code the children have, what they were doing, and what fails."""

from __future__ import annotations

import logging
import os
import signal

import psutil
import pytest

from framework.api.pool import SUCCESS
from support import ledger
from support.pool_harness import Harness, both
from support.wait import wait_for


@pytest.fixture
def module(tmp_path):
    """Write a module that the pool can import; its WORD is what `module:<name>` answers."""

    def module(name, source='WORD = "first"'):
        (tmp_path / f"{name}.py").write_text(source + "\n")
        return name

    return module


def ready(pool: Harness, count: int = 2) -> list[int]:
    """Wait until `count` children take jobs; returns their pids."""
    wait_for(lambda: sum(slot.ready for slot in pool.pool._supervisor.slots.values()) == count, 30, f"{count} children")
    return pool.pids()


def server(pool: Harness) -> int:
    return pool.pool._supervisor._launcher.pid


def restart(pool: Harness, *imports: str, fresh: bool = False) -> None:
    """Restart the pool and wait until all its children are others."""
    before = set(ready(pool))
    pool.call(pool.pool.restart, imports, fresh)
    wait_for(lambda: len(pool.pids()) == 2 and not before & set(pool.pids()), 30, "new children")
    ready(pool)


def word(pool: Harness, name: str) -> str:
    """Return what the children say about the module `name`: each of them is asked."""
    outcomes = pool.run(*[b"sleep:0.05;module:" + name.encode()] * 4)
    [note] = {outcome.note for outcome in outcomes}
    return note


def complaint(caplog: pytest.LogCaptureFixture) -> str:
    wait_for(lambda: "cannot be restarted" in caplog.text, 30, "the complaint")
    [line] = [record.getMessage() for record in caplog.records if "cannot be restarted" in record.getMessage()]
    return line


# ---------------------------------------------------------------- the code as it is on disk


@both
def test_fresh_restart_lets_running_jobs_end(make):
    pool = make()
    before = ready(pool)
    old_server = server(pool)
    [running] = pool.submit(b"sleep:1;pid")
    old = pool.wait_begun(running)
    pool.call(pool.pool.restart, (), True)
    wait_for(lambda: server(pool) != old_server, 30, "the new server")
    assert pool.wait([running])[0].note == str(old)
    wait_for(lambda: len(pool.pids()) == 2 and not set(before) & set(pool.pids()), 30, "new children")
    assert pool.run(b"noop")[0].code == SUCCESS
    wait_for(lambda: not psutil.pid_exists(old_server), 30, "the end of the old server")


@both
def test_fresh_restart_imports_the_code_that_is_on_disk_now(make, module):
    pool = make()
    module("fresh_code")
    restart(pool, "fresh_code", fresh=True)
    assert word(pool, "fresh_code") == "first"
    # Of another length: the compiled file of the first would else count as that of the second.
    module("fresh_code", 'WORD = "the second"')
    restart(pool, fresh=True)
    assert word(pool, "fresh_code") == "the second"


@both
def test_fresh_restart_that_cannot_import_changes_nothing(make, caplog):
    pool = make()
    before = ready(pool)
    pool.pool._supervisor._context.recipe["factory"] = "support.pool_workload:broken"
    pool.call(pool.pool.restart, (), True)
    assert "missing_thing" in complaint(caplog)
    assert pool.run(b"noop")[0].code == SUCCESS
    assert set(pool.pids()) == set(before)


@both
def test_fresh_restart_whose_module_fails_changes_nothing_and_is_forgotten(make, module, caplog):
    pool = make()
    before = ready(pool)
    pool.call(pool.pool.restart, [module("fails_fresh", "WORD = 1\n1 / 0")], True)
    assert "ZeroDivisionError" in complaint(caplog)
    assert "fails_fresh.py, line 2" in complaint(caplog)
    assert set(pool.pids()) == set(before)
    restart(pool, fresh=True)
    assert word(pool, "fails_fresh") == "absent"


@both
def test_fresh_restart_while_jobs_flow_loses_nothing(make, tmp_path):
    pool = make()
    seqs = pool.submit(*[b"note:%d;sleep:0.0005" % n for n in range(3_000)], task="usual")
    for _ in range(2):
        before = server(pool)
        pool.call(pool.pool.restart, (), True)
        wait_for(lambda before=before: server(pool) != before, 30, "the new server")
    pool.wait(seqs, 30)
    books = ledger.balance(range(3_000), tmp_path / "ledger")
    assert books.balanced, str(books)


# ---------------------------------------------------------------- the code that the pool has run so far


def test_restart_keeps_the_server_and_its_code(make, module):
    pool = make()
    name = module("kept_code")
    restart(pool, name)
    before = server(pool)
    module("kept_code", 'WORD = "the second"')
    restart(pool, name)
    assert word(pool, name) == "first"
    assert server(pool) == before


@both
def test_restart_lets_running_jobs_end(make, module, tmp_path):
    pool = make()
    before = ready(pool)
    gate = tmp_path / "gate"
    [running] = pool.submit(b"note:begun;await:%s;pid" % bytes(gate))
    old = pool.wait_begun(running)
    # Reported the moment it is given to an idle child: it has begun when it says so itself.
    wait_for(lambda: ledger.size(tmp_path / "ledger") == 1, 30, "the job to begin")
    pool.call(pool.pool.restart, [module("meanwhile")])
    others = [pid for pid in before if pid != old]
    wait_for(lambda: not set(others) & set(pool.pids()), 30, "the idle child to be replaced")
    assert running not in pool.ended
    gate.touch()
    assert pool.wait([running])[0].note == str(old)
    wait_for(lambda: old not in pool.pids(), 30, "the busy child to be replaced")
    assert word(pool, "meanwhile") == "first"


@both
def test_children_that_replace_others_later_have_the_imports(make, module):
    pool = make(max_tasks_per_child=1)
    restart(pool, module("for_later"))
    for _ in range(3):
        assert word(pool, "for_later") == "first"


@both
def test_later_servers_have_the_imports(make, module, caplog):
    pool = make()
    restart(pool, module("early"))
    restart(pool, fresh=True)
    assert word(pool, "early") == "first"
    before = server(pool)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: server(pool) != before, 30, "another server")
    ready(pool)
    assert word(pool, "early") == "first"


@both
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("WORD = 1\nimport no_such_thing", ["ModuleNotFoundError", "no_such_thing", "fails.py, line 2"]),
        ("def broken(:", ["SyntaxError", "fails.py, line 1"]),
        ("import sys\nsys.exit(3)", ["SystemExit", "fails.py, line 2"]),
    ],
)
def test_restart_whose_module_fails_changes_nothing(make, module, caplog, source, words):
    pool = make()
    before = ready(pool)
    old_server = server(pool)
    pool.call(pool.pool.restart, [module("works"), module("fails", source)])
    line = complaint(caplog)
    for expected in words:
        assert expected in line
    assert pool.run(b"noop")[0].code == SUCCESS
    assert (set(pool.pids()), server(pool)) == (set(before), old_server)
    # Nor does a later server trip over it.
    restart(pool, fresh=True)
    assert word(pool, "fails") == "absent"


@both
def test_module_that_is_not_there_is_named(make, caplog):
    pool = make()
    before = ready(pool)
    pool.call(pool.pool.restart, ["nowhere_to_be_found"])
    assert "nowhere_to_be_found" in complaint(caplog)
    assert set(pool.pids()) == set(before)


def test_module_that_kills_the_server_is_named_and_forgotten(make, module, caplog):
    pool = make()
    ready(pool)
    before = server(pool)
    pool.call(pool.pool.restart, [module("deadly", "import os\nos._exit(5)")])
    wait_for(lambda: server(pool) != before, 30, "another server")
    assert f"the fork server (pid {before}) has ended while it imported deadly" in caplog.text
    ready(pool)
    assert word(pool, "deadly") == "absent"


@both
def test_restart_during_a_fresh_restart_reaches_both_servers(make, module):
    pool = make()
    ready(pool)
    before = server(pool)

    def both() -> None:
        pool.pool.restart([module("one")], True)
        pool.pool.restart([module("two")])

    pool.call(both)
    wait_for(lambda: server(pool) != before, 30, "the new server")
    wait_for(lambda: not pool.pool._supervisor._launcher.pending_imports, 30, "its imports")
    wait_for(
        lambda: {slot.launcher.pid for slot in pool.pool._supervisor.slots.values()} == {server(pool)}, 30, "children"
    )
    wait_for(lambda: word(pool, "one") == word(pool, "two") == "first", 30, "both modules")


def test_fresh_restart_overtaken_by_another_keeps_what_both_import(make, module):
    pool = make()
    ready(pool)

    def three() -> None:
        pool.pool.restart([module("one")], True)
        pool.pool.restart([module("two")])
        pool.pool.restart([module("three")], True)

    before = server(pool)
    pool.call(three)
    wait_for(lambda: server(pool) != before, 30, "the new server")
    wait_for(
        lambda: {slot.launcher.pid for slot in pool.pool._supervisor.slots.values()} == {server(pool)}, 30, "children"
    )
    assert [word(pool, name) for name in ("one", "two", "three")] == ["first"] * 3


@both
def test_restart_while_jobs_flow_loses_nothing(make, module, tmp_path):
    pool = make()
    seqs = pool.submit(*[b"note:%d;sleep:0.0005" % n for n in range(3_000)], task="usual")
    for number in range(5):
        pool.call(pool.pool.restart, [module(f"flow_{number}")])
        wait_for(lambda: not pool.pool._supervisor._launcher.pending_imports, 30, "the import")
    pool.wait(seqs, 30)
    books = ledger.balance(range(3_000), tmp_path / "ledger")
    assert books.balanced, str(books)
    ready(pool)
    assert word(pool, "flow_4") == "first"


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.DEBUG)
