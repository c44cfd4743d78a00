"""Our client sends to unmodified Celery workers and reads their results (acceptance S 225-227, roles exchanged)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from framework import chain, group
from framework.exceptions import TaskRevokedError
from support import ledger, proj, workers
from support.wait import wait_for

ARRANGEMENTS = [
    pytest.param(("redis", "redis"), id="redis"),
    pytest.param(("amqp", "redis"), id="amqp"),
    pytest.param(("amqp", "rpc"), id="amqp-rpc"),
    pytest.param(("redis", "rpc"), id="redis-rpc"),
]


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def fleet(request, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A Celery worker and one of our clients, shared by all tests of an arrangement."""
    broker, backend = request.param
    servers = {"redis": "redis_server", "amqp": "rabbit_server"}
    url = request.getfixturevalue(servers[broker]).fresh_url()
    results = "rpc://" if backend == "rpc" else request.getfixturevalue("redis_server").fresh_url()
    book = tmp_path_factory.mktemp("fleet") / "ledger"
    env = workers.app_environment(broker=url, backend=results, ledger=book)
    app = proj.make_app(url, results)
    worker = workers.start_celery_worker(
        None, "-P", "threads", "-c", "2", "--without-gossip", "--without-mingle", env=env
    )
    with contextlib.closing(app), worker:
        worker.wait_ready()
        yield SimpleNamespace(app=app, tasks=app.tasks, worker=worker, ledger=book)


def test_add(fleet):
    assert fleet.tasks["proj.add"].delay(2, 3).get(timeout=30) == 5


def test_xsum_and_many(fleet):
    results = [fleet.tasks["proj.xsum"].delay(list(range(number))) for number in range(50)]
    assert [result.get(timeout=20) for result in results] == [sum(range(number)) for number in range(50)]


def test_bulk(fleet):
    add = fleet.tasks["proj.add"]
    results = fleet.app.send_many(add.s(number, number) for number in range(100))
    assert [result.get(timeout=20) for result in results] == [2 * number for number in range(100)]


def test_send_task_by_name(fleet):
    assert fleet.app.send_task("proj.echo", ("a",), {"b": 1}).get(timeout=30) == [["a"], {"b": 1}]


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
def test_countdown_priority_and_late_acknowledgement(fleet):
    add = fleet.tasks["proj.add"]
    assert add.apply_async((1, 2), countdown=0.2).get(timeout=30) == 3
    assert add.apply_async((1, 2), priority=3).get(timeout=30) == 3
    fleet.tasks["proj.record_late"].delay("late")
    wait_for(lambda: ledger.read(fleet.ledger)["late"] == 1, 30, lambda: fleet.worker.output[-2000:])


@pytest.mark.acceptance(226)
def test_expired(fleet):
    with pytest.raises(TaskRevokedError, match="expired"):
        fleet.tasks["proj.add"].apply_async((1, 2), expires=-1).get(timeout=30)


@pytest.mark.acceptance(226)
def test_link(fleet):
    fleet.tasks["proj.add"].apply_async((20, 22), link=fleet.tasks["proj.record"].s())
    wait_for(lambda: ledger.read(fleet.ledger)["42"] == 1, 30, lambda: fleet.worker.output[-2000:])


@pytest.mark.acceptance(226)
def test_link_error(fleet):
    result = fleet.tasks["proj.fail"].apply_async(("x",), link_error=fleet.tasks["proj.oops"].s())
    wait_for(lambda: ledger.read(fleet.ledger)[f"oops:{result.id}"] == 1, 30, lambda: fleet.worker.output[-2000:])


def test_chain_and_group(fleet):
    add = fleet.tasks["proj.add"]
    assert chain(add.s(1, 2), add.s(3), add.s(4)).apply_async().get(timeout=30) == 10
    assert group(add.s(number, 1) for number in range(10)).apply_async().get(timeout=20) == list(range(1, 11))


def test_unknown_task(fleet):
    with pytest.raises(Exception, match=r"nowhere"):
        fleet.app.send_task("proj.nowhere").get(timeout=30)
