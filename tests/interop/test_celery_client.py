"""An unmodified Celery client sends to our workers and reads their results (acceptance S 225-227)."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import chain, group

from support import celeryproj, ledger, workers
from support.wait import wait_for

ARRANGEMENTS = [
    pytest.param(("redis", "redis", "prefork"), id="redis-prefork"),
    pytest.param(("amqp", "redis", "threads"), id="amqp-threads"),
    pytest.param(("amqp", "rpc", "prefork"), id="amqp-rpc-prefork"),
    pytest.param(("redis", "rpc", "solo"), id="redis-rpc-solo"),
    pytest.param(("redis", "redis", "gevent"), id="redis-gevent"),
    pytest.param(("redis", "rpc", "eventlet"), id="redis-rpc-eventlet"),
    pytest.param(("amqp", "redis", "asyncio"), id="amqp-asyncio"),
]


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def fleet(request, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """One of our workers and a Celery client, shared by all tests of an arrangement."""
    broker, backend, pool = request.param
    servers = {"redis": "redis_server", "amqp": "rabbit_server"}
    url = request.getfixturevalue(servers[broker]).fresh_url()
    if backend == "rpc":
        results = "rpc://"
    else:
        results = request.getfixturevalue("redis_server").fresh_url()
    book = tmp_path_factory.mktemp("fleet") / "ledger"
    env = workers.app_environment(broker=url, backend=results, ledger=book, conf='{"task_unknown_retries": 0}')
    app = celeryproj.make_app(url, results)
    worker = workers.start_worker(None, "-P", pool, "-c", "2", env=env)
    with celeryproj.closing(app), worker:
        worker.wait_ready()
        yield SimpleNamespace(app=app, tasks=app.tasks, worker=worker, ledger=book, url=url, backend=backend)


@pytest.mark.acceptance(225)
def test_add(fleet):
    assert fleet.tasks["proj.add"].delay(2, 3).get(timeout=30) == 5


def test_xsum_and_many(fleet):
    results = [fleet.tasks["proj.xsum"].delay(list(range(number))) for number in range(50)]
    assert [result.get(timeout=20) for result in results] == [sum(range(number)) for number in range(50)]


def test_unicode_and_nesting_come_through(fleet):
    value = {"grüße": ["\U0001f600", None, 1.5, {"a": [True]}]}
    assert fleet.tasks["proj.echo"].delay(value, key=value).get(timeout=30) == [[value], {"key": value}]


def test_failing(fleet):
    result = fleet.tasks["proj.fail"].delay("on purpose")
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=30)
    assert result.state == "FAILURE"
    assert "Traceback" in result.traceback


@pytest.mark.acceptance(226)
def test_retrying(fleet):
    assert fleet.tasks["proj.retrying"].delay(2).get(timeout=20) == 2


@pytest.mark.acceptance(226)
def test_retried_too_often(fleet):
    with pytest.raises(ValueError, match="attempt 1"):
        fleet.tasks["proj.retrying"].delay(99, most=1).get(timeout=20)


@pytest.mark.acceptance(226)
def test_acks_late(fleet):
    fleet.tasks["proj.record_late"].delay("late")
    wait_for(lambda: ledger.read(fleet.ledger)["late"] == 1, 30, lambda: fleet.worker.output[-2000:])


@pytest.mark.acceptance(226)
def test_countdown(fleet):
    assert fleet.tasks["proj.add"].apply_async((1, 2), countdown=0.5).get(timeout=30) == 3


@pytest.mark.acceptance(226)
def test_expired(fleet):
    from celery.exceptions import TaskRevokedError

    result = fleet.tasks["proj.add"].apply_async((1, 2), expires=-1)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=30)


@pytest.mark.acceptance(226)
def test_priority_is_accepted(fleet):
    results = [fleet.tasks["proj.add"].apply_async((1, priority), priority=priority) for priority in (0, 3, 9)]
    assert [result.get(timeout=30) for result in results] == [1, 4, 10]


@pytest.mark.acceptance(226)
def test_link(fleet):
    add, record = fleet.tasks["proj.add"], fleet.tasks["proj.record"]
    add.apply_async((20, 22), link=record.s())
    wait_for(lambda: ledger.read(fleet.ledger)["42"] == 1, 30, lambda: fleet.worker.output[-2000:])


@pytest.mark.acceptance(226)
def test_link_error(fleet):
    result = fleet.tasks["proj.fail"].apply_async(("x",), link_error=fleet.tasks["proj.oops"].s())
    wait_for(lambda: ledger.read(fleet.ledger)[f"oops:{result.id}"] == 1, 30, lambda: fleet.worker.output[-2000:])


@pytest.mark.acceptance(226)
def test_chain(fleet):
    add = fleet.tasks["proj.add"]
    assert celeryproj.outcome(chain(add.s(1, 2), add.s(3), add.s(4)).apply_async(), 20) == 10


def test_group(fleet):
    add = fleet.tasks["proj.add"]
    assert group(add.s(number, 1) for number in range(10)).apply_async().get(timeout=20) == list(range(1, 11))


@pytest.mark.acceptance(227)
def test_protocol_1(fleet):
    app = celeryproj.make_app(fleet.url, fleet.app.conf.result_backend, task_protocol=1)
    with celeryproj.closing(app):
        assert app.tasks["proj.add"].delay(2, 2).get(timeout=30) == 4
        with pytest.raises(ValueError, match="old"):
            app.tasks["proj.fail"].delay("old").get(timeout=30)


@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
def test_compressed(fleet, compression):
    assert fleet.tasks["proj.echo"].apply_async(("x" * 5000,), compression=compression).get(timeout=30) == [
        ["x" * 5000],
        {},
    ]


def test_unknown_task_is_a_stored_failure(fleet):
    result = fleet.app.send_task("proj.nowhere")
    with pytest.raises(Exception, match=r"proj\.nowhere"):
        result.get(timeout=30)


@pytest.mark.acceptance(57, 58, 61, 63)
def test_inspect_and_control_reach_the_worker(fleet):
    node = fleet.worker.node
    control = fleet.app.control
    assert control.ping(timeout=10, limit=1) == [{node: {"ok": "pong"}}]
    inspect = control.inspect([node], timeout=10)
    assert "proj.add" in inspect.registered()[node]
    stats = inspect.stats()[node]
    assert stats["pid"] == fleet.worker.pid
    assert stats["total"]["proj.add"] >= 1
    assert control.ping(destination=["nobody@here"], timeout=0.2) == []
