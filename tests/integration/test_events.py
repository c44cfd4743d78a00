"""Events of real workers, heard by our own receiver: acceptance P/Q 214, 216, 217, and 115."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil
import pytest

from framework.message import Outgoing
from support.brokers import PrivateRedis
from support.listening import listening
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]
COMMON = {"type", "hostname", "utcoffset", "timestamp", "pid", "clock"}
#: Section 8.3 of the wire protocol.
FIELDS = {
    "worker-online": {"freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"},
    "task-received": {"uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires"},
    "task-started": {"uuid"},
    "task-succeeded": {"uuid", "result", "runtime"},
    "task-failed": {"uuid", "exception", "traceback"},
    "task-retried": {"uuid", "exception", "traceback"},
    "task-revoked": {"uuid", "terminated", "signum", "expired"},
    "task-rejected": {"uuid", "requeue"},
    "task-sent": {"uuid", "root_id", "parent_id", "name", "args", "kwargs", "retries", "eta", "expires"}
    | {"queue", "exchange", "routing_key"},
}
FIELDS["worker-heartbeat"] = FIELDS["worker-offline"] = FIELDS["worker-online"]


@pytest.fixture
def url(request, broker):
    return request.getfixturevalue(f"{broker}_url")


@pytest.fixture
def backend(url):
    return "rpc://" if url.startswith("amqp") else url


def on_each_broker(*, pools=POOLS):
    cases = [(pool, broker) for broker in ("redis", "amqp") for pool in pools]
    cases += [("prefork", "sqlite"), ("threads", "sqlite")]
    return pytest.mark.parametrize(("pool", "broker"), cases)


@pytest.mark.acceptance(214, 216)
@on_each_broker()
def test_task_events_are_switched_on_and_off(pool, broker, url, backend, client, start_worker):
    app = client(url, backend)
    add = app.tasks["proj.add"]
    with listening(app) as heard:
        worker = start_worker("-P", pool, "-c", "2", broker=url, backend=backend)
        wait_for(lambda: heard.of("worker-online"), 30)
        assert add.delay(1, 1).get(timeout=20) == 2
        assert app.control.disable_events(reply=True, limit=1) == [
            {worker.node: {"ok": "task events already disabled"}}
        ]
        assert app.control.enable_events(reply=True, limit=1) == [{worker.node: {"ok": "task events enabled"}}]
        assert app.control.enable_events(reply=True, limit=1) == [{worker.node: {"ok": "task events already enabled"}}]
        told = add.delay(2, 2)
        assert told.get(timeout=20) == 4
        wait_for(lambda: heard.of("task-succeeded"), 30)
        assert app.control.disable_events(reply=True, limit=1) == [{worker.node: {"ok": "task events disabled"}}]
        assert add.delay(3, 3).get(timeout=20) == 6
        worker.stop()
        wait_for(lambda: heard.of("worker-offline"), 30)
        assert {event["uuid"] for event in heard.events if event["type"].startswith("task-")} == {told.id}
        assert heard.of("task-succeeded")[0]["result"] == "4"
        assert heard.of("worker-offline")[0]["processed"] == 3


@pytest.mark.acceptance(214)
@on_each_broker(pools=["prefork"])
def test_events_of_a_worker_started_with_them_can_be_switched_off(pool, broker, url, backend, client, start_worker):
    app = client(url, backend)
    add = app.tasks["proj.add"]
    with listening(app) as heard:
        worker = start_worker("-E", "-P", pool, "-c", "1", broker=url, backend=backend)
        first = add.delay(1, 1)
        wait_for(lambda: heard.of("task-succeeded"), 20)
        assert app.control.disable_events(reply=True, limit=1) == [{worker.node: {"ok": "task events disabled"}}]
        assert add.delay(2, 2).get(timeout=20) == 4
        worker.stop()
        wait_for(lambda: heard.of("worker-offline"), 30)
        assert {event["uuid"] for event in heard.events if "uuid" in event} == {first.id}


@pytest.mark.acceptance(217)
@on_each_broker(pools=["prefork", "threads", "gevent"])
def test_events_have_all_their_fields(pool, broker, url, backend, client, start_worker):
    app = client(url, backend, task_send_sent_event=True)
    tasks = app.tasks
    with listening(app) as heard:
        worker = start_worker(
            *("-E", "-P", pool, "-c", "2", "--heartbeat-interval", "0.2"),
            broker=url,
            backend=backend,
            conf={"task_unknown_retries": 0},
        )
        app.control.revoke("not-wanted", reply=True, limit=1)
        sent = {
            "ok": tasks["proj.add"].apply_async((1,), {"y": 2}, expires=600, shadow="sum"),
            "failed": tasks["proj.fail"].delay("on purpose"),
            "retried": tasks["proj.retrying"].delay(1),
            "revoked": tasks["proj.add"].apply_async((1, 2), task_id="not-wanted"),
            "rejected": tasks["proj.reject"].delay(),
            "unknown": app.send_task("proj.nowhere"),
        }
        app.send_many(tasks["proj.noop"], [(number,) for number in range(20)])
        ids = {name: result.id for name, result in sent.items()}
        wait_for(lambda: heard.types()["task-sent"] == 26, 20, lambda: str(heard.types()))
        wait_for(lambda: heard.types()["task-succeeded"] == 22, 20, lambda: str(heard.types()))
        for kind, name in (
            ("task-failed", "failed"),
            ("task-failed", "unknown"),
            ("task-retried", "retried"),
            ("task-revoked", "revoked"),
            ("task-rejected", "rejected"),
        ):
            wait_for(lambda k=kind, n=name: ids[n] in [each["uuid"] for each in heard.of(k)], 30, f"{kind} of {name}")
        wait_for(lambda: heard.types()["worker-heartbeat"] >= 2, 30)
        worker.stop()
        wait_for(lambda: heard.of("worker-offline"), 30)
        events = list(heard.events)
    for event in events:
        if event["type"] == "worker-heartbeat" and event["freq"] == 5:
            continue  # asked for, by the receiver
        missing = (COMMON | FIELDS[event["type"]]) - event.keys()
        assert not missing, (event, missing)
    assert {event["hostname"] for event in events if event["type"] != "task-sent"} == {worker.node}
    assert {event["pid"] for event in events if event["type"] != "task-sent"} == {worker.pid}
    received = next(event for event in events if event["type"] == "task-received" and event["uuid"] == ids["ok"])
    assert (received["name"], received["args"], received["kwargs"]) == ("sum", "(1,)", "{'y': 2}")
    assert received["expires"] is not None
    assert received["root_id"] == ids["ok"]
    failed = next(event for event in events if event["type"] == "task-failed" and event["uuid"] == ids["failed"])
    assert failed["exception"] == "ValueError('on purpose')"
    assert "Traceback" in failed["traceback"]
    unknown = next(event for event in events if event["type"] == "task-failed" and event["uuid"] == ids["unknown"])
    assert unknown["exception"] == "NotRegistered('proj.nowhere')"
    revoked = next(event for event in events if event["type"] == "task-revoked")
    assert (revoked["terminated"], revoked["signum"], revoked["expired"]) == (False, None, False)
    clocks = [event["clock"] for event in events if event["type"] != "task-sent"]
    assert clocks == sorted(clocks)


@pytest.mark.acceptance(115)
@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_hard_limit_is_one_failure(broker, url, backend, client, start_worker):
    app = client(url, backend)
    with listening(app) as heard:
        worker = start_worker("-E", "-c", "1", "--time-limit", "0.5", broker=url, backend=backend)
        slow = app.tasks["proj.sleeptask"].delay(60)
        after = app.tasks["proj.add"].delay(1, 2)
        wait_for(lambda: heard.of("task-succeeded"), 30)
        worker.stop()
        wait_for(lambda: heard.of("worker-offline"), 30)
        assert [event["uuid"] for event in heard.of("task-failed")] == [slow.id]
        assert [event["uuid"] for event in heard.of("task-succeeded")] == [after.id]
        assert heard.of("task-failed")[0]["exception"] == "TimeLimitExceeded(0.5)"


@pytest.mark.parametrize("broker", ["redis", "sqlite"])  # RabbitMQ drops what has expired by itself
def test_an_expired_task_is_revoked(broker, url, backend, client, start_worker):
    app = client(url, backend)
    with listening(app) as heard:
        start_worker("-E", "-c", "1", broker=url, backend=backend)
        app.tasks["proj.add"].apply_async((1, 2), expires=-1)
        wait_for(lambda: heard.of("task-revoked"), 20)
        event = heard.of("task-revoked")[0]
        assert (event["terminated"], event["signum"], event["expired"]) == (False, None, True)


@pytest.mark.parametrize("broker", ["redis", "amqp", "sqlite"])
def test_every_task_of_a_large_send_is_told(broker, url, client):
    """No worker: what is told is that they were sent."""
    app = client(url, task_send_sent_event=True)
    with listening(app) as heard:
        sent = app.send_many(app.tasks["proj.noop"], [(number,) for number in range(5_000)])
        wait_for(lambda: heard.types()["task-sent"] >= 5_000, 30, lambda: str(heard.types()))
        assert [event["uuid"] for event in heard.of("task-sent")] == [result.id for result in sent]


def test_tasks_may_want_no_events(redis_url, client, start_worker):
    app = client(redis_url, redis_url)
    with listening(app) as heard:
        start_worker("-E", "-c", "1", broker=redis_url, backend=redis_url)
        assert app.tasks["proj.secret"].delay().get(timeout=20) is None
        told = app.tasks["proj.add"].delay(1, 1)
        wait_for(lambda: heard.of("task-succeeded"), 20)
        assert {event["uuid"] for event in heard.events if "uuid" in event} == {told.id}


def test_without_heartbeat_nothing_is_told_unasked(redis_url, client, start_worker):
    app = client(redis_url, redis_url)
    with listening(app) as heard:
        worker = start_worker("--without-heartbeat", "-c", "1", broker=redis_url, backend=redis_url)
        assert app.control.heartbeat(reply=True, limit=1) == [{worker.node: None}]
        wait_for(lambda: heard.of("worker-heartbeat"), 30)
        worker.stop()
        # An election of ours: nobody takes part, nobody minds.
        assert heard.types().keys() == {"worker-heartbeat"}


@pytest.mark.acceptance(230)
@pytest.mark.parametrize("broker", ["redis", "amqp", "sqlite"])
def test_elections_and_nonsense_are_survived(broker, url, backend, client, start_worker):
    app = client(url, backend)
    worker = start_worker("-E", "-c", "1", broker=url, backend=backend)
    assert app.control.election("e1", "boss", {"method": "ping"}, reply=True, limit=1) == [{worker.node: None}]
    kind = app.transport.traits.events_exchange
    bodies = [
        b"{",
        b"\xff\x00",
        b"5",
        b"[[]]",
        b'{"type": 7}',
        b'{"type": "worker-heartbeat"}',
        b'{"type": "worker-elect"}',
    ]
    with contextlib.closing(app.transport.mailbox()) as mailbox:
        for body in bodies:
            for exchange, exchange_type, key in (
                ("celeryev", kind, "worker.heartbeat"),
                ("celery.pidbox", "fanout", ""),
            ):
                mailbox.send([Outgoing(body, {}, exchange, key, exchange_type, delivery_mode=1)])
    app.publisher.publish([Outgoing(b"\xff not a task", {}, "", "celery")])
    assert app.tasks["proj.add"].delay(1, 1).get(timeout=20) == 2
    assert app.control.ping(limit=1) == [{worker.node: {"ok": "pong"}}]
    assert not worker.lines("Defect in the worker")


def test_a_worker_without_remote_control_tells_all_the_same(redis_url, client, start_worker):
    app = client(redis_url, redis_url)
    with listening(app) as heard:
        start_worker("-E", "-c", "1", broker=redis_url, backend=redis_url, conf={"worker_enable_remote_control": False})
        assert app.tasks["proj.add"].delay(1, 1).get(timeout=20) == 2
        wait_for(lambda: heard.of("task-succeeded"), 30)
        assert heard.of("worker-online")


def test_an_idle_worker_holds_two_connections_and_says_little(redis_server, client, start_worker):
    url = redis_server.fresh_url()
    db = int(url.rpartition("/")[2])
    with redis_server.client() as server:
        start_worker("-E", "-c", "2", broker=url, backend=url)
        # Mingle has had one of its own, for as long as it took.
        wait_for(lambda: 0 < _connections(server, db) <= 2, 20, lambda: f"two connections, not {server.client_list()}")
        with server.monitor() as monitor:
            commands = _commands(monitor, db, seconds=4.5)
    published = [command for command in commands if command.startswith("PUBLISH") and "celeryev" in command]
    assert 1 <= len(published) <= 3


def _connections(server, db):
    return sum(1 for each in server.client_list() if each["db"] == str(db) and each["name"].startswith("framework"))


def _commands(monitor, db, *, seconds):
    """What the server is told about database `db`; a window of time is what is measured here."""
    connection = monitor.connection
    found, end = [], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if connection.can_read(timeout=left):
            command = monitor.next_command()
            if command["db"] == db:
                found.append(command["command"])
    return found


def test_a_lost_connection_stops_neither_tasks_nor_events(tmp_path, client, start_worker):
    """The worker's own connection for events is cut; what it tells afterwards comes, tasks run on."""
    broker = PrivateRedis(tmp_path / "redis")
    broker.start()
    try:
        url = broker.fresh_url()
        app = client(url, url)
        add = app.tasks["proj.add"]
        worker = start_worker("-E", "-c", "2", broker=url, backend=url)
        with listening(app) as heard:
            add.delay(1, 1).get(timeout=20)
            wait_for(lambda: heard.of("task-succeeded"), 30)
            with broker.client() as server:
                cut = server.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            assert cut >= 2  # the worker's and ours
            wait_for(lambda: len(heard.connections) >= 3, 30, "our receiver to be back")
            wait_for(lambda: len(worker.lines("Remote control and events")) >= 1, 30)
            for _ in range(20):
                assert add.delay(2, 2).get(timeout=20) == 4
            wait_for(lambda: heard.types()["task-succeeded"] >= 2, 30)
            wait_for(lambda: heard.of("worker-heartbeat"), 30)
            # And with the whole broker gone for a while.
            broker.kill()
            wait_for(lambda: worker.lines("Cannot connect to"), 30)
            heard.events.clear()
            broker.start()
            worker.wait_line("Connected to", 20, count=2)
            wait_for(lambda: heard.of("worker-online") or heard.of("worker-heartbeat"), 20)
            told = add.delay(3, 3)
            wait_for(lambda: told.id in [event["uuid"] for event in heard.of("task-succeeded")], 20)
            assert worker.stop() == 0
    finally:
        broker.close()


def test_a_frozen_monitor_connection_costs_no_task(redis_server, client, start_worker):
    """A subscriber that reads nothing is the broker's affair, not the worker's."""
    url = redis_server.fresh_url()
    app = client(url, url)
    db = url.rpartition("/")[2]
    with redis_server.client() as server:
        deaf = server.pubsub()
        deaf.psubscribe(f"/{db}.celeryev/*")
        start_worker("-E", "-c", "2", broker=url, backend=url)
        results = app.send_many(app.tasks["proj.add"], [(number, 1) for number in range(2_000)])
        assert results.get(timeout=60) == list(range(1, 2_001))
        deaf.close()


def test_a_cold_stop_tells_what_it_cancels(redis_url, client, start_worker):
    app = client(redis_url, redis_url)
    with listening(app) as heard:
        worker = start_worker("-E", "-c", "1", broker=redis_url, backend=redis_url)
        late = app.tasks["proj.sleep_late"].delay(60)
        wait_for(lambda: heard.of("task-started"), 20)
        worker.stop(signal.SIGQUIT)
        wait_for(lambda: heard.of("worker-offline"), 30)
        assert [event["uuid"] for event in heard.of("task-cancelled")] == [late.id]


def test_a_killed_process_is_one_failure(redis_url, client, start_worker):
    app = client(redis_url, redis_url)
    with listening(app) as heard:
        worker = start_worker("-E", "-c", "1", broker=redis_url, backend=redis_url)
        pid = app.tasks["proj.whoami"].delay().get(timeout=20)["pid"]
        slow = app.tasks["proj.sleeptask"].delay(60)
        wait_for(lambda: slow.id in [event["uuid"] for event in heard.of("task-started")], 20)
        assert psutil.pid_exists(pid)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: heard.of("task-failed"), 20, lambda: worker.output[-2000:])
        assert [event["uuid"] for event in heard.of("task-failed")] == [slow.id]
        assert "WorkerLostError" in heard.of("task-failed")[0]["exception"]


def test_a_broker_that_takes_nothing_holds_up_no_task(rabbit_server, redis_url, client, start_worker):
    """While RabbitMQ is short of memory it reads no events; they are kept, and come when it does."""
    url = rabbit_server.fresh_url()
    app = client(url, redis_url)
    with listening(app) as heard:
        results = app.send_many(app.tasks["proj.add"], [(number, 1) for number in range(2_000)])
        rabbit_server.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).")
        try:
            start_worker("-E", "-c", "2", broker=url, backend=redis_url)
            assert results.get(timeout=60) == list(range(1, 2_001))
        finally:
            rabbit_server.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).")
        wait_for(lambda: heard.types()["task-succeeded"] == 2_000, 30, lambda: str(heard.types()))
