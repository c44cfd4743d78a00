"""What the pool of processes leaves behind when it is restarted and resized again and again: nothing."""

from __future__ import annotations

import contextlib
import gc
import threading

import psutil
import pytest

from framework.api.pool import SUCCESS
from framework_pools.prefork import PreforkPool
from support.pool_harness import TESTS, Harness
from support.wait import wait_for

ROUNDS = 10


@pytest.fixture(params=["fork", "spawn"])
def pool(request, tmp_path):
    recipe = {"path": [TESTS, str(tmp_path)], "ledger": str(tmp_path / "ledger")}
    with Harness(PreforkPool, 2, recipe, start_method=request.param) as harness:
        yield harness


@pytest.fixture
def others():
    """The processes of other tests, which are children of this one, too."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def not_of(others: set[int]) -> list[psutil.Process]:
    """Return the processes below this one, without those of other tests and what these have started meanwhile."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not others & {process.pid, *(parent.pid for parent in process.parents())}:
                found.append(process)
    return found


def settled(pool: Harness, count: int, others: set[int]) -> list[psutil.Process]:
    """Wait until there is one server with `count` children that take jobs, and no zombie; returns them all."""

    def tree() -> list[psutil.Process] | None:
        slots = list(pool.pool._supervisor.slots.values())
        if len(slots) != count or not all(slot.ready and not slot.retired for slot in slots):
            return None
        found = not_of(others)
        if {slot.pid for slot in slots} | {pool.pool._supervisor._launcher.pid} != {process.pid for process in found}:
            return None
        if any(process.status() == psutil.STATUS_ZOMBIE for process in found):
            return None
        return found

    return wait_for(tree, 20, f"a server and {count} children, and nothing else")


def holdings(tree: list[psutil.Process]) -> dict[str, int]:
    gc.collect()
    server, *children = tree
    return {
        "descriptors of the worker": psutil.Process().num_fds(),
        "threads of the worker": threading.active_count(),
        "descriptors of the server": server.num_fds(),
        "threads of the server": server.num_threads(),
        "descriptors of a child": max(child.num_fds() for child in children),
        "threads of a child": max(child.num_threads() for child in children),
    }


def no_more(before: dict[str, int], now: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {what: (before[what], count) for what, count in now.items() if count > before[what]}


def others_than(pool: Harness, before: set[int]) -> bool:
    pids = set(pool.pids())
    return len(pids) == 2 and not pids & before


@pytest.mark.parametrize("fresh", [False, True], ids=["running", "fresh"])
def test_restarts_leave_nothing_behind(others, pool, tmp_path, fresh):
    (tmp_path / "imported_again.py").write_text("WORD = 1\n")
    pool.run(*[b"noop"] * 20)
    before = None
    for _ in range(ROUNDS):
        pids = set(pool.pids())
        pool.call(pool.pool.restart, ["imported_again"], fresh)
        wait_for(lambda pids=pids: others_than(pool, pids), 20, "other children")
        tree = settled(pool, 2, others)
        assert {outcome.code for outcome in pool.run(*[b"noop"] * 20)} == {SUCCESS}
        if before is None:
            before = holdings(tree)
    assert no_more(before, holdings(settled(pool, 2, others))) == {}


def test_growing_and_shrinking_leaves_nothing_behind(others, pool):
    before = holdings(settled(pool, 2, others))
    for _ in range(ROUNDS):
        pool.call(pool.pool.grow, 3)
        settled(pool, 5, others)
        assert {outcome.code for outcome in pool.run(*[b"noop"] * 20)} == {SUCCESS}
        pool.call(pool.pool.shrink, 3)
        settled(pool, 2, others)
    assert no_more(before, holdings(settled(pool, 2, others))) == {}
    indexes = {slot.spec.process_index for slot in pool.pool._supervisor.slots.values()}
    assert indexes == {1, 2}


def test_children_that_die_leave_nothing_behind(others, pool):
    before = holdings(settled(pool, 2, others))
    for _ in range(ROUNDS):
        pool.run(b"die:9")
        settled(pool, 2, others)
    assert no_more(before, holdings(settled(pool, 2, others))) == {}
