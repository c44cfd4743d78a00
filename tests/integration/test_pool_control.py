"""Steering pools from outside (acceptance F 79-91, H 102-116, N 176-186), on every pool.

One worker an arrangement; each test leaves it idle, with as many slots as it had.
"""

from __future__ import annotations

import pytest

from framework.exceptions import SoftTimeLimitExceeded, TaskError, TaskRevokedError, TimeLimitExceeded, WorkerLostError
from support import poolfleet, queues
from support.poolfleet import POOLS
from support.wait import wait_for
from support.watch import Watch

ARRANGEMENTS = [("redis", pool) for pool in POOLS] + [("amqp", pool) for pool in POOLS]
CONF = {
    "worker_pool_restarts": True,
    "worker_pool_restart_modules": ["late_*", "support.*"],
    # So that tasks wait in the worker.
    "worker_prefetch_multiplier": 4,
}


@pytest.fixture(scope="module", params=ARRANGEMENTS, ids="-".join)
def fleet(request, tmp_path_factory):
    broker, pool = request.param
    with poolfleet.running(request, broker, pool, tmp_path_factory.mktemp("fleet"), "-E", **CONF) as fleet:
        yield fleet


@pytest.fixture
def once(fleet):
    """For what no broker has a part in: on one of them."""
    if fleet.app.conf.settings.broker.url.startswith("amqp"):
        pytest.skip("what no broker has a part in")
    return fleet


@pytest.fixture
def prefork(once):
    fleet = once
    if fleet.pool != "prefork":
        pytest.skip("what only processes have")
    return fleet


# ---------------------------------------------------------------- F


@pytest.mark.acceptance(79)
def test_revoke_leaves_a_running_task_alone(fleet):
    with fleet.holding(1) as (held,):
        assert fleet.tell("revoke", task_id=held.id) == {"ok": f"tasks {ids(held)} flagged as revoked"}
    assert held.state == "SUCCESS"


def ids(*results):
    return {result.id for result in results}


@pytest.mark.acceptance(80, 86)
def test_each_way_to_revoke_keeps_a_waiting_task_from_running(once):
    fleet = once
    with fleet.holding():
        first, second, third = (fleet.send("bounded.wait", 0) for _ in range(3))
        wait_for(lambda: {task["id"] for task in fleet.ask("reserved")} & ids(first), 30, "the first to be received")
        assert first.revoke(wait=True, timeout=15)
        fleet.app.AsyncResult(second.id).revoke()
        fleet.app.control.revoke(third.id)
        wait_for(lambda: ids(first, second, third) <= set(fleet.ask("revoked")), 30, "all to be revoked")
    for result in (first, second, third):
        with pytest.raises(TaskRevokedError, match="revoked"):
            result.get(timeout=30)
        assert result.state == "REVOKED"
        assert fleet.runs(result) == 0


@pytest.mark.acceptance(81, 82, 86, 91)
def test_terminate_ends_the_task_and_no_other(fleet):
    before = fleet.pids()
    neighbours = fleet.slots - 1
    with fleet.holding(neighbours):
        doomed = fleet.begin("bounded.wait", 60)
        reply = fleet.tell("terminate", task_id=doomed.id, signal="TERM")
        assert reply == {"ok": f"terminate: {doomed.id}"}
        with pytest.raises(TaskRevokedError, match="terminated"):
            doomed.get(timeout=30)
        assert doomed.state == "REVOKED"
        assert doomed.id in fleet.ask("revoked")
        # The holders, which run on, are the only ones left.
        wait_for(lambda: len(fleet.ask("active")) == neighbours, 30, "the task to be gone")
        if fleet.pool == "prefork":
            wait_for(lambda: len(fleet.pids()) == fleet.slots and fleet.pids() != before, 30, "another process")
    # A second copy of the message is skipped.
    again = fleet.app.send_task("bounded.wait", (0, doomed.id), task_id=doomed.id)
    fleet.worker.wait_line(f"Discarding revoked task: .*{doomed.id}")
    assert fleet.runs(doomed) == 1
    assert again.state == "REVOKED"
    assert fleet.app.tasks["proj.add"].delay(1, 2).get(timeout=30) == 3


@pytest.mark.acceptance(81)
def test_terminate_is_told(once):
    fleet = once
    watch = Watch(fleet.app)
    try:
        # The watcher has been bound when it sees the first.
        wait_for(lambda: fleet.tell("heartbeat") is None and watch.events, 30, "a heartbeat")
        doomed = fleet.begin("bounded.wait", 60)
        fleet.app.control.terminate(doomed.id, signal="SIGKILL")
        (event,) = wait_for(lambda: watch.of(doomed, "task-revoked"), 30, lambda: str(watch.events))
        assert event["terminated"] is True
        assert event["signum"] in ("SIGKILL", 9)
        assert event["expired"] is False
    finally:
        watch.close()
    fleet.worker.wait_line(rf"Terminating {doomed.id} \(9\)")


@pytest.mark.acceptance(81)
def test_terminate_what_waits(fleet):
    with fleet.holding():
        waiting = fleet.send("bounded.wait", 60)
        wait_for(lambda: [task for task in fleet.ask("reserved") if task["id"] == waiting.id], 30, "it to be received")
        assert fleet.tell("revoke", task_id=[waiting.id, "nowhere"], terminate=True) == {
            "ok": f"terminate: {waiting.id}"
        }
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=30)
    assert fleet.runs(waiting) == 0


@pytest.mark.acceptance(85)
def test_wrong_signals_and_unknown_tasks(once):
    fleet = once
    assert fleet.tell("terminate", signal=None, task_id="nowhere") == {"ok": "terminate: tasks unknown"}
    assert fleet.tell("terminate", signal="USR2", task_id="nowhere") == {"ok": "terminate: tasks unknown"}
    assert fleet.tell("revoke", task_id="x", terminate=True, signal="kill")["error"].startswith(
        "signal name must be uppercase string"
    )
    assert "unknown signal 'NOSUCH'" in fleet.tell("revoke", task_id="y", terminate=True, signal="NOSUCH")["error"]
    assert "unknown signal 99" in fleet.tell("revoke", task_id="y", terminate=True, signal=99)["error"]
    assert not {"x", "y"} & set(fleet.ask("revoked"))


@pytest.mark.acceptance(83)
def test_the_signal_is_term_by_default(prefork):
    trapped = prefork.begin("bounded.trap")
    trapped.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        trapped.get(timeout=30)
    wait_for(lambda: "signal:SIGTERM" in prefork.book.read_text(), 30, "the signal")


@pytest.mark.acceptance(84, 85)
@pytest.mark.parametrize("name", ["SIGKILL", "SIGUSR2", "INT", "QUIT"])
def test_another_signal(prefork, name):
    doomed = prefork.begin("bounded.wait", 60)
    if name == "INT":
        name = "KILL"  # children ignore INT
    assert prefork.tell("terminate", signal=name, task_id=doomed.id)["ok"] == f"terminate: {doomed.id}"
    with pytest.raises(TaskRevokedError):
        doomed.get(timeout=30)


# ---------------------------------------------------------------- H


@pytest.mark.acceptance(104, 105, 108)
def test_limits_of_a_call(once):
    fleet = once
    tidy = fleet.send(fleet.native("tidy"), 60, soft_time_limit=0.2)
    assert tidy.get(timeout=30) == "tidied up"
    untidy = fleet.send("bounded.wait", 60, soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        untidy.get(timeout=30)
    cut = fleet.send("bounded.wait", 60, time_limit=0.2)
    with pytest.raises(TimeLimitExceeded):
        cut.get(timeout=30)
    # The call's own wins over the task's.
    assert fleet.send("bounded.limited", 0.5, time_limit=60).get(timeout=30) == 0.5
    with pytest.raises(TimeLimitExceeded):
        fleet.send("bounded.limited", 60).get(timeout=30)


@pytest.mark.acceptance(111, 112, 114)
def test_time_limits_changed_at_run_time(fleet):
    path = fleet.directory / f"gate-{fleet.pool}-limits"
    task = fleet.native("gate")
    before = fleet.begin(task, str(path))
    (reply,) = fleet.app.control.time_limit(task, soft=60, hard=0.2, reply=True, timeout=15, limit=1)
    assert reply == {poolfleet.NODE: {"ok": "time limits set successfully"}}
    fleet.worker.wait_line(f"New time limits for tasks of type {task}: soft=60.0 hard=0.2")
    if fleet.slots > 1:
        with pytest.raises(TimeLimitExceeded):
            fleet.send(task, str(path)).get(timeout=30)
    else:
        waiting = fleet.send(task, str(fleet.directory / "never"))
    # That limit is long over, and it runs.
    assert before.id in {one["id"] for one in fleet.ask("active")}
    path.touch()
    before.get(timeout=30)
    if fleet.slots == 1:
        with pytest.raises(TimeLimitExceeded):
            waiting.get(timeout=30)
    # What a call says wins; and what was removed is gone.
    never = str(fleet.directory / "never")
    with pytest.raises(SoftTimeLimitExceeded):
        fleet.send(task, never, soft_time_limit=0.1, time_limit=60).get(timeout=30)
    fleet.tell("time_limit", task_name="bounded.limited", soft=None, hard=None)
    assert fleet.send("bounded.limited", 0.5).get(timeout=30) == 0.5
    fleet.tell("time_limit", task_name="bounded.limited", hard=0.3)
    fleet.tell("time_limit", task_name=task, soft=None, hard=None)


@pytest.mark.acceptance(111)
def test_a_change_reaches_what_waits(once):
    fleet = once
    with fleet.holding():
        waiting = fleet.send("bounded.wait", 60)
        wait_for(lambda: [task for task in fleet.ask("reserved") if task["id"] == waiting.id], 30, "it to be received")
        fleet.tell("time_limit", task_name="bounded.wait", soft=0.1)
    with pytest.raises(SoftTimeLimitExceeded):
        waiting.get(timeout=30)
    fleet.tell("time_limit", task_name="bounded.wait")


@pytest.mark.acceptance(113)
def test_time_limits_that_cannot_be(once):
    fleet = once
    assert fleet.tell("time_limit", task_name="no.such", soft=1) == {"error": "unknown task"}
    assert "wanted seconds above 0" in fleet.tell("time_limit", task_name="bounded.wait", soft=-1)["error"]
    assert "hard is 'soon'" in fleet.tell("time_limit", task_name="bounded.wait", hard="soon")["error"]


def test_a_time_out_of_a_green_library_is_a_failure_of_the_task(once):
    if once.pool not in ("gevent", "eventlet"):
        pytest.skip("what greenlets have")
    result = once.send("bounded.times_out", once.pool)
    with pytest.raises(TaskError, match="Timeout"):
        result.get(timeout=30)
    assert not isinstance(result.result, WorkerLostError)
    assert "Timeout" in f"{type(result.result).__name__} {result.result}"
    assert once.app.tasks["proj.add"].delay(1, 2).get(timeout=30) == 3


# ---------------------------------------------------------------- size


def test_grow_and_shrink(once):
    fleet = once
    if fleet.pool == "solo":
        assert "has a fixed size" in fleet.tell("pool_grow")["error"]
        assert "has a fixed size" in fleet.tell("pool_shrink")["error"]
        return
    assert fleet.tell("pool_grow", n=2) == {"ok": "pool will grow"}
    fleet.slots += 2
    try:
        with fleet.holding():  # as many run at a time
            assert fleet.ask("stats")["pool"]["max-concurrency"] == 4
            assert fleet.tell("pool_shrink", n="2") == {"ok": "pool will shrink"}
    finally:
        fleet.slots -= 2
    wait_for(lambda: fleet.ask("stats")["pool"]["max-concurrency"] == 2, 30, "the pool to shrink")
    with fleet.holding():
        waiting = fleet.send("bounded.wait", 0)
        wait_for(lambda: [task for task in fleet.ask("reserved") if task["id"] == waiting.id], 30, "it to be received")
        assert fleet.runs(waiting) == 0
    assert waiting.get(timeout=30) == 0
    assert fleet.tell("pool_shrink", n=2)["error"] == "cannot remove 2 of 2 slots: the pool needs at least one"
    assert "wanted 1 or more" in fleet.tell("pool_grow", n=0)["error"]
    assert "at most 1000" in fleet.tell("pool_grow", n=10**6)["error"]
    assert "n is 'many'" in fleet.tell("pool_grow", n="many")["error"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_the_pool_never_grows_beyond_its_bound(pool, start_worker, client, redis_url):
    worker = start_worker("-P", pool, "-c", "2", broker=redis_url, conf={"worker_pool_max": 4})
    control = client(redis_url).control

    def grow(n):
        return next(iter(control.pool_grow(n, reply=True, timeout=30, limit=1)[0].values()))

    assert [grow(1), grow(1)] == [{"ok": "pool will grow"}] * 2
    refused = "the pool has 4 slots and may have at most 4 (pool_max), not 5"
    assert [grow(1)["error"], grow(1)["error"]] == [refused] * 2
    (stats,) = control.inspect(timeout=30, limit=1).stats().values()
    assert stats["pool"]["max-concurrency"] == 4
    control.pool_shrink(1, reply=True, timeout=30, limit=1)
    assert "not 5" in grow(2)["error"]
    assert grow(1) == {"ok": "pool will grow"}
    assert worker.stop() == 0


def test_a_pool_that_is_larger_than_the_bound_from_the_start_stays(start_worker, client, redis_url):
    worker = start_worker("-P", "threads", "-c", "5", broker=redis_url, conf={"worker_pool_max": 4})
    ((reply,),) = [each.values() for each in client(redis_url).control.pool_grow(1, reply=True, timeout=30, limit=1)]
    assert "the pool has 5 slots and may have at most 4" in reply["error"]
    assert worker.stop() == 0


def test_the_range_of_the_autoscaler_keeps_to_the_bound(start_worker, client, redis_url):
    worker = start_worker("-P", "threads", "--autoscale", "3,1", broker=redis_url, conf={"worker_pool_max": 4})
    control = client(redis_url).control

    def autoscale(*bounds):
        return next(iter(control.autoscale(*bounds, reply=True, timeout=30, limit=1)[0].values()))

    assert autoscale(5, 1) == {"error": "the pool may have at most 4 slots (pool_max), not 5"}
    assert autoscale(4, 1) == {"ok": "autoscale now max=4 min=1"}
    assert worker.stop() == 0


# ---------------------------------------------------------------- N

TASK = """
from framework import shared_task
VALUE = {value!r}

@shared_task(name="late.{name}")
def {name}():
    return VALUE
"""


@pytest.mark.acceptance(177, 178, 179, 181, 184)
def test_restart_brings_in_modules(fleet):
    fleet.write("late_one", TASK.format(name="one", value=1))
    assert fleet.tell("pool_restart", modules=["late_one"]) == {"ok": "reload started"}
    assert "late.one" in fleet.ask("registered")
    assert fleet.app.send_task("late.one").get(timeout=30) == 1
    fleet.write("late_one", TASK.format(name="one", value=2))
    fleet.tell("pool_restart", modules=["late_one"])
    assert fleet.app.send_task("late.one").get(timeout=30) == 1
    fleet.tell("pool_restart", modules=["late_one"], reload=True)
    wait_for(lambda: fleet.app.send_task("late.one").get(timeout=30) == 2, 30, "the new code")


@pytest.mark.acceptance(180)
def test_restart_reloads_all_modules_with_tasks_in_the_order_in_which_they_depend(once):
    fleet = once
    fleet.write("late_base", "VALUE = 1\n")
    fleet.write("late_two", "from late_base import VALUE\n" + TASK.format(name="two", value=0).replace("VALUE = 0", ""))
    fleet.tell("pool_restart", modules=["late_two"])
    assert fleet.app.send_task("late.two").get(timeout=30) == 1
    fleet.write("late_base", "VALUE = 2\n")
    fleet.tell("pool_restart", modules=["late_two", "late_base"], reload=True)
    wait_for(lambda: fleet.app.send_task("late.two").get(timeout=30) == 2, 30, "the new code")
    fleet.write("late_two", TASK.format(name="two", value=3))
    # The modules of all tasks, among them that which makes the application.
    assert fleet.tell("pool_restart", reload=True) == {"ok": "reload started"}
    wait_for(lambda: fleet.app.send_task("late.two").get(timeout=30) == 3, 30, "the new code")
    assert fleet.app.tasks["proj.add"].delay(1, 2).get(timeout=30) == 3


@pytest.mark.acceptance(182, 185)
def test_restart_leaves_running_tasks_alone(once):
    fleet = once
    before = fleet.pids()
    with fleet.holding() as held:
        fleet.tell("pool_restart")
        assert fleet.app.control.inspect(timeout=15, limit=1).ping()
    assert [result.state for result in held] == ["SUCCESS"] * fleet.slots
    if fleet.pool == "prefork":
        wait_for(lambda: not before & fleet.pids() and len(fleet.pids()) == fleet.slots, 30, "other processes")
    assert fleet.app.tasks["proj.add"].delay(1, 2).get(timeout=30) == 3


@pytest.mark.acceptance(183)
def test_restart_with_a_reloader(once):
    fleet = once
    fleet.write("late_three", TASK.format(name="three", value=3))
    fleet.write(
        "late_tools",
        "import importlib\nfrom support.proj import note\n"
        "def renew(module):\n    note(f'renewed:{module.__name__}')\n    return importlib.reload(module)\n",
    )
    fleet.tell("pool_restart", modules=["late_three"])
    reply = fleet.tell("pool_restart", modules=["late_three"], reload=True, reloader="late_tools.renew")
    assert reply == {"ok": "reload started"}
    assert "renewed:late_three" in fleet.book.read_text()
    reply = fleet.tell("pool_restart", modules=["late_three"], reload=True, reloader="late_tools.nothing")
    assert "the reloader late_tools.nothing is no function" in reply["error"]


@pytest.mark.acceptance(186)
def test_restart_with_a_module_that_fails(once):
    fleet = once
    fleet.write("late_broken", "raise SystemExit('not today')\n")
    for reload in (False, True):
        reply = fleet.tell("pool_restart", modules=["late_broken"], reload=reload)
        assert "cannot import late_broken: SystemExit('not today')" in reply["error"]
        assert "late_broken.py, line 1" in reply["error"]
    assert "may not be imported" in fleet.tell("pool_restart", modules=["os"])["error"]
    assert "no module name" in fleet.tell("pool_restart", modules=["late_/x"])["error"]
    assert "modules is 'late_one'" in fleet.tell("pool_restart", modules="late_one")["error"]
    assert fleet.app.tasks["proj.add"].delay(1, 2).get(timeout=30) == 3


def test_nothing_is_left_in_the_queue(fleet):
    wait_for(lambda: queues.waiting(fleet.app.conf.settings.broker.url) == 0, 30, "an empty queue")
    assert fleet.ask("active") == fleet.ask("reserved") == []
