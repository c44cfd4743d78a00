"""A pool that is resized while its tasks run (acceptance K 139), and tasks that are ended in whatever moment (F 87), on
every pool; what its traits mean for limits (H 110).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from framework._config.settings import BrokerSettings, Settings, TaskSettings, WorkerSettings
from framework.api.pool import PoolTraits
from framework.exceptions import ConfigError, TaskRevokedError
from framework.worker.steps.plugins import check_traits
from framework_pools.prefork.pool import PreforkPool
from support import ledger
from support.steering import POOLS, Steered, ends, steering
from support.wait import wait_for


@pytest.fixture(scope="module", params=POOLS)
def worker(request, tmp_path_factory) -> Iterator[Steered]:
    conf = {"worker_prefetch_multiplier": 4}
    with steering(request, "redis", tmp_path_factory.mktemp("sizes"), request.param, conf=conf) as made:
        yield made


@pytest.mark.acceptance(139)
def test_a_pool_grows_and_shrinks_while_its_tasks_run(worker):
    if worker.pool == "solo":
        for command in ("pool_grow", "pool_shrink"):
            assert "the pool 'solo' has a fixed size" in worker.tell(command, 1)["error"]
        assert worker.info()["max-concurrency"] == 1
        return
    with worker.holding(2) as first:
        assert worker.tell("pool_grow", 2) == {"ok": "pool will grow"}
        with worker.holding(2) as second:
            stats = worker.ask("stats")
            assert (stats["pool"]["max-concurrency"], stats["prefetch_count"]) == (4, 16)
            assert worker.tell("pool_shrink", 3) == {"ok": "pool will shrink"}
            stats = worker.ask("stats")
            assert (stats["pool"]["max-concurrency"], stats["prefetch_count"]) == (1, 4)
    assert {result.state for result in (*first, *second)} == {"SUCCESS"}
    # One at a time: the second has to wait for the first.
    with worker.holding(1):
        waiting = worker.send("proj.add", 1, 1)
        wait_for(lambda: waiting.id in {task["id"] for task in worker.ask("reserved")}, 30, "the second task")
    assert waiting.get(timeout=20) == 2
    worker.tell("pool_grow", 1)
    with worker.holding(2):
        assert worker.info()["max-concurrency"] == 2
    if worker.pool == "prefork":
        wait_for(lambda: len(worker.info()["processes"]) == 2, 30, "two children")


def test_what_was_received_and_has_not_begun_is_revoked_at_once(worker):
    with worker.holding(worker.slots):
        waiting = [worker.send("proj.record", f"never{number}", ignore_result=False) for number in range(2)]
        later = worker.send("proj.record", "never2", ignore_result=False, countdown=5)
        ids = {result.id for result in waiting}
        wait_for(lambda: ids <= {task["id"] for task in worker.ask("reserved")}, 30, "the tasks to be received")
        wait_for(lambda: worker.ask("query_task", [later.id]), 30, "the task of later to be received")
        assert worker.tell("terminate", waiting[0].id) == {"ok": f"terminate: {waiting[0].id}"}
        worker.tell("revoke", [waiting[1].id, later.id])
        for result in (*waiting, later):
            assert isinstance(ends(result), TaskRevokedError)
            assert result.state == "REVOKED"
        assert not ids & {task["id"] for task in worker.ask("reserved")}
    worker.free()
    assert not [line for line in ledger.lines(worker.book) if line.startswith("never")]


@pytest.mark.acceptance(87)
def test_a_burst_of_short_tasks_is_terminated_one_by_one(worker):
    """Whichever moment an end finds them in, none but the tasks that were named are struck."""
    results = [worker.send("proj.sleeptask", 0.002, f"burst{number}") for number in range(100)]
    named = results[::7]
    for result in named:
        worker.ours.control.terminate(result.id)
    for result in results:
        result.get(timeout=30, propagate=False)
    states = {result.id: result.state for result in results}
    ids = {result.id for result in named}
    assert {state for task_id, state in states.items() if task_id not in ids} == {"SUCCESS"}
    assert {states[task_id] for task_id in ids} <= {"SUCCESS", "REVOKED"}
    worker.free()


@pytest.mark.acceptance(110)
def test_a_limit_that_a_pool_cannot_keep_is_refused_in_words(monkeypatch):
    """Where there is no signal for it, prefork has no soft limit; then the worker does not start with one."""
    assert PreforkPool.traits.soft_limit is hasattr(os, "fork")
    monkeypatch.setattr(PreforkPool, "traits", PoolTraits(processes=True, hard_limit=True, recycles=True))
    settings = Settings(broker=BrokerSettings(url="memory://"), task=TaskSettings(soft_time_limit=1))
    with pytest.raises(ConfigError, match=r"cannot enforce a soft time limit .* choose another with --pool"):
        check_traits(PreforkPool, settings)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_pool_that_cannot_end_tasks_is_refused_where_they_are_to_end_with_the_connection(wanted, monkeypatch):
    monkeypatch.setattr(PreforkPool, "traits", PoolTraits(processes=True, recycles=True))
    worker = WorkerSettings(cancel_long_running_tasks_on_connection_loss=wanted)
    settings = Settings(broker=BrokerSettings(url="memory://"), worker=worker)
    refused = pytest.raises(ConfigError, match=r"cannot end a running task .* choose another with --pool")
    with refused if wanted else nullcontext():
        check_traits(PreforkPool, settings)
