"""What workers tell of themselves (acceptance O 187-196 and P 197-208), on every pool and broker.

Celery's client asks on Redis and RabbitMQ, ours on SQLite. One worker an arrangement; each test leaves it idle.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psutil
import pytest

from support import celeryproj, proj, workers
from support.wait import wait_for

ARRANGEMENTS = [
    *(("redis", pool) for pool in ("prefork", "threads", "solo", "gevent", "eventlet", "asyncio")),
    ("amqp", "prefork"),
    ("amqp", "threads"),
    ("sqlite", "prefork"),
]
#: Holds messages for the tests of `reserved`, and those of an hour ahead; limits for those of `stats`.
CONF = {
    "worker_prefetch_multiplier": 4,
    "worker_eta_park_after": 7200,
    "task_time_limit": 300,
    "task_soft_time_limit": 200,
}
SLOTS = {"solo": 1}


class Fleet(SimpleNamespace):
    """One worker of ours, a client, and gates that hold tasks in the worker."""

    def inspect(self, *args: Any, **kwargs: Any) -> Any:
        return self.app.control.inspect(*args, **{"timeout": 10, "limit": 1, **kwargs})

    def ask(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the worker answers."""
        return getattr(self.inspect(), command)(*args, **kwargs)[self.node]

    @contextlib.contextmanager
    def holding(self, count: int) -> Iterator[list[Any]]:
        """Send `count` tasks that run until the block ends; enter when as many run as there are slots."""
        gate = self.directory / uuid4().hex
        results = [self.app.tasks["proj.hold"].delay(str(gate)) for _ in range(count)]
        ids = {result.id for result in results}
        try:
            wait_for(
                lambda: len([task for task in self.ask("active") if task["id"] in ids]) == min(count, self.slots),
                10,
                "the tasks to run",
            )
            yield results
        finally:
            gate.touch()
            for result in results:
                result.get(timeout=20)


@pytest.fixture(scope="module", params=ARRANGEMENTS, ids="-".join)
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    broker, pool = request.param
    directory = tmp_path_factory.mktemp("fleet")
    if broker == "sqlite":
        url = f"sqlite:///{directory}/broker.db"
    else:
        url = request.getfixturevalue({"redis": "redis_server", "amqp": "rabbit_server"}[broker]).fresh_url()
    results = "rpc://" if broker == "amqp" else url
    env = workers.app_environment(broker=url, backend=results, conf=json.dumps(CONF))
    if broker == "sqlite":
        app, closing = proj.make_app(url, results), contextlib.closing
    else:
        app, closing = celeryproj.make_app(url, results), celeryproj.closing
    worker = workers.start_worker(None, "-P", pool, "-c", "2", "-n", "w@here", env=env)
    with closing(app), worker:
        worker.wait_ready()
        yield Fleet(
            app=app, worker=worker, node="w@here", pool=pool, broker=broker, slots=SLOTS.get(pool, 2), url=url,
            directory=directory,
        )  # fmt: skip


# ---------------------------------------------------------------- O


@pytest.mark.acceptance(187)
def test_one_node_all_nodes_listed_nodes(fleet):
    pong = {"ok": "pong"}
    assert fleet.inspect().ping() == {fleet.node: pong}
    assert fleet.inspect([fleet.node]).ping() == {fleet.node: pong}
    if fleet.broker == "sqlite":
        # Celery's own client refuses a single name.
        assert fleet.inspect(fleet.node).ping() == pong


@pytest.mark.acceptance(188)
def test_registered(fleet):
    names = fleet.ask("registered")
    assert names == sorted(names)
    assert "proj.add" in names
    assert "proj.limited [rate_limit=1000/s]" in names
    assert not [name for name in names if name.startswith("celery.")]


@pytest.mark.acceptance(189, 202)
def test_active_while_every_slot_is_busy(fleet):
    with fleet.holding(fleet.slots) as results:
        running = {task["id"]: task for task in fleet.ask("active")}
        task = running[results[0].id]
        assert running.keys() == {result.id for result in results}
        assert task["name"] == task["type"] == "proj.hold"
        assert task["hostname"] == fleet.node
        assert len(task["args"]) == 1
        assert task["kwargs"] == {}
        assert task["time_start"] > 1e9
        assert task["acknowledged"] is True
        assert psutil.pid_exists(task["worker_pid"])
        assert task["delivery_info"].keys() == {"exchange", "routing_key", "priority", "redelivered"}
        assert task["delivery_info"]["redelivered"] is False
    assert fleet.ask("active") == []


@pytest.mark.acceptance(190, 205)
def test_scheduled_raises_the_prefetch_count(fleet):
    before = fleet.ask("stats")["prefetch_count"]
    eta = datetime.now(UTC) + timedelta(hours=1)
    results = [fleet.app.tasks["proj.add"].apply_async((number, 1), eta=eta) for number in range(2)]
    waiting = wait_for(lambda: len(found := fleet.ask("scheduled")) == 2 and found, 30, "two scheduled tasks")
    assert {entry["request"]["id"] for entry in waiting} == {result.id for result in results}
    assert all(datetime.fromisoformat(entry["eta"]) == eta for entry in waiting)
    assert all(entry["priority"] == 6 for entry in waiting)
    assert sorted(entry["request"]["args"] for entry in waiting) == [[0, 1], [1, 1]]
    assert all(entry["request"]["name"] == "proj.add" for entry in waiting)
    assert fleet.ask("stats")["prefetch_count"] == before + 2
    found = fleet.ask("query_task", results[0].id)
    assert found[results[0].id][0] == "scheduled"
    fleet.app.control.revoke([result.id for result in results], reply=True, timeout=10, limit=1)


@pytest.mark.acceptance(192, 195)
def test_reserved_and_query_task(fleet):
    with fleet.holding(fleet.slots + 3) as results:
        wait_for(lambda: len(fleet.ask("reserved")) == 3, 30, "three reserved tasks")
        states = fleet.ask("query_task", *[result.id for result in results], "nowhere")
        assert sorted(state for state, _info in states.values()) == ["active"] * fleet.slots + ["reserved"] * 3
        assert states.keys() == {result.id for result in results}
        assert {task["id"] for task in fleet.ask("reserved")} == {
            task_id for task_id, (state, _info) in states.items() if state == "reserved"
        }
        assert all(task["time_start"] is None for task in fleet.ask("reserved"))


@pytest.mark.acceptance(195)
def test_the_other_commands(fleet):
    task_id = str(uuid4())
    fleet.app.control.revoke(task_id, reply=True, timeout=10, limit=1)
    assert task_id in fleet.ask("revoked")
    conf = fleet.ask("conf")
    assert conf["worker_prefetch_multiplier"] == 4
    assert "guest:guest@" not in json.dumps(conf)
    # As Celery's workers, for programs that read it: nothing is deprecated.
    assert conf["deprecated_settings"] is None
    assert fleet.ask("conf", with_defaults=True)["deprecated_settings"] == []
    assert "framework" in fleet.ask("report")["ok"]
    assert re.fullmatch(r"\d+\.\d\dMB", fleet.ask("memsample"))
    assert re.search(r"- rss \(sample\): \d+\.\d\dMB\n- rss \(end\): \d+\.\d\dMB\.", fleet.ask("memdump"))
    graph = fleet.ask("objgraph", type="Intake", n=1, max_depth=1)
    assert "error" in graph or os.path.exists(graph["filename"])


@pytest.mark.acceptance(176)
def test_pool_restarts_must_be_enabled(fleet):
    (reply,) = fleet.app.control.broadcast("pool_restart", {}, reply=True, timeout=10, limit=1)
    assert reply[fleet.node] == {"error": "Pool restarts not enabled"}


@pytest.mark.acceptance(194, 208)
def test_the_command_line_prints_them(fleet):
    env = workers.app_environment(broker=fleet.url)
    done = workers.run_command("-A", "proj", "inspect", "stats", "--json", "-t", "10", "-d", fleet.node, env=env)
    assert json.loads(done.stdout)[fleet.node]["pid"] == fleet.worker.pid
    done = workers.run_command("-A", "proj", "inspect", "active", "-t", "10", "-d", fleet.node, env=env)
    assert done.stdout.splitlines()[:2] == [f"->  {fleet.node}: OK", " " * 8 + "- empty -"]


@pytest.mark.acceptance(196)
def test_nobody(redis_url, celery_client, client):
    assert celery_client(redis_url).control.inspect(timeout=0.2).ping() is None
    assert client(redis_url).control.inspect().ping() is None


# ---------------------------------------------------------------- P


@pytest.mark.acceptance(197)
def test_the_broker_of_stats(fleet):
    broker = fleet.ask("stats")["broker"]
    assert broker.keys() >= {
        "connect_timeout", "heartbeat", "hostname", "insist", "login_method", "port", "ssl", "transport",
        "transport_options", "uri_prefix", "userid", "virtual_host",
    }  # fmt: skip
    assert "guest" not in json.dumps({key: value for key, value in broker.items() if key != "userid"})


@pytest.mark.acceptance(199)
def test_the_clock_goes_on(fleet):
    first, second = fleet.ask("stats")["clock"], fleet.ask("stats")["clock"]
    assert 0 < int(first) < int(second)
    assert fleet.ask("clock")["clock"] > int(second)


@pytest.mark.acceptance(200, 206)
def test_the_process_of_stats(fleet):
    stats = fleet.ask("stats")
    assert stats["pid"] == fleet.worker.pid
    assert isinstance(stats["uptime"], int)
    rusage = stats["rusage"]
    assert set(rusage) == {
        "stime", "utime", "maxrss", "idrss", "isrss", "ixrss", "inblock", "oublock", "majflt", "minflt", "msgrcv",
        "msgsnd", "nvcsw", "nivcsw", "nsignals", "nswap",
    }  # fmt: skip
    assert all(isinstance(value, (int, float)) for value in rusage.values())


@pytest.mark.acceptance(207)
def test_totals_by_task(fleet):
    before = fleet.ask("stats")["total"].get("proj.add", 0)
    for number in range(3):
        assert fleet.app.tasks["proj.add"].delay(number, 1).get(timeout=30) == number + 1
    assert fleet.ask("stats")["total"]["proj.add"] == before + 3


@pytest.mark.acceptance(201, 203, 204)
def test_the_pool_of_stats(fleet):
    for number in range(4):
        fleet.app.tasks["proj.add"].delay(number, 1).get(timeout=30)
    pool = fleet.ask("stats")["pool"]
    assert pool["max-concurrency"] == fleet.slots
    assert pool["timeouts"] == [200, 300]
    assert pool.keys() >= {
        "implementation", "max-concurrency", "max-tasks-per-child", "processes", "put-guarded-by-semaphore",
        "timeouts", "writes",
    }  # fmt: skip
    assert isinstance(pool["processes"], list)
    if fleet.pool == "prefork":
        assert all(psutil.Process(pid).ppid() for pid in pool["processes"])
        assert sum(int(count) for count in pool["writes"]["raw"].split(", ")) == pool["writes"]["total"]


@pytest.mark.acceptance(59, 62)
def test_ping_is_answered_while_every_slot_is_busy_and_a_thousand_wait(fleet):
    noop: Callable[..., Any] = fleet.app.tasks["proj.noop"]
    with fleet.holding(fleet.slots):
        for number in range(1000):
            noop.delay(number)
        # Within its own time-out, which the client has set to one second.
        assert fleet.inspect(timeout=1).ping() == {fleet.node: {"ok": "pong"}}
    total = 1000
    wait_for(lambda: fleet.ask("stats")["total"].get("proj.noop", 0) >= total, 20, "the noops to run")


@pytest.mark.acceptance(73)
def test_wrong_commands_and_arguments_are_errors_and_the_worker_lives(fleet):
    def error(command: str, arguments: dict[str, Any]) -> str:
        (reply,) = fleet.app.control.broadcast(command, arguments, reply=True, timeout=10, limit=1)
        return reply[fleet.node]["error"]

    assert "nonsense" in error("nonsense", {})
    assert "sideways" in error("active", {"sideways": 1})
    assert "samples is 'many'" in error("memdump", {"samples": "many"})
    assert fleet.inspect().ping() == {fleet.node: {"ok": "pong"}}


@pytest.mark.acceptance(69, 70)
def test_a_broadcast_without_reply_returns_at_once(fleet):
    assert fleet.app.control.broadcast("ping") is None
    assert fleet.app.control.broadcast("ping", reply=True, timeout=10, limit=1) == [{fleet.node: {"ok": "pong"}}]
