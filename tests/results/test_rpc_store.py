"""Results as messages, over every transport that a worker may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import kombu
import pytest

from framework.api.result_store import Record, ResultStoreContext
from framework.api.transport import Delivery, Exchange, Queue, Transport
from framework.exceptions import ConfigError, TimeoutError  # noqa: A004 - what the store raises
from framework.message import read
from framework_results.rpc import RpcOptions, RpcStore
from support.wait import wait_for


def connect(scheme: str, request: pytest.FixtureRequest) -> tuple[str, Transport]:
    """Make a transport; each needs nothing but its own fixture."""
    if scheme == "amqp":
        from framework_transports.amqp import AmqpOptions, AmqpTransport

        url = request.getfixturevalue("amqp_url")
        return url, AmqpTransport(url, AmqpOptions(), {})
    if scheme == "redis":
        from framework_transports.redis import RedisTransport

        url = request.getfixturevalue("redis_url")
        return url, RedisTransport(url, RedisTransport.options_type(), {})
    from framework_transports.sqlite import SqliteTransport

    url = request.getfixturevalue("sqlite_url")
    return url, SqliteTransport(url, SqliteTransport.options_type(), {})


@pytest.fixture(params=["amqp", "redis", "sqlite"])
def broker(request: pytest.FixtureRequest) -> Iterator[Transport]:
    _, transport = connect(request.param, request)
    yield transport
    transport.close()


@pytest.fixture
def make(broker: Transport) -> Iterator[Callable[..., RpcStore]]:
    made: list[RpcStore] = []

    def build(oid: str | None = None, **options: object) -> RpcStore:
        context = ResultStoreContext(
            expires=3600.0, oid=oid or "", producer=broker.producer, consumer=broker.consumer if oid else None
        )
        made.append(RpcStore("rpc://", RpcOptions(**options), context))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for store in made:
        store.close()


def document(task_id: str, status: str = "SUCCESS", result: object = 3) -> bytes:
    return json.dumps({"status": status, "result": result, "task_id": task_id}).encode()


def record(task_id: str, reply_to: str | None, status: str = "SUCCESS", result: object = 3) -> Record:
    return Record(task_id, document(task_id, status, result), status, reply_to, task_id)


def is_ready(raw: bytes) -> bool:
    return json.loads(raw)["status"] in ("SUCCESS", "FAILURE", "REVOKED")


def test_a_result_reaches_whoever_asked(make: Callable[..., RpcStore]) -> None:
    client, other, worker = make("oid-1"), make("oid-2"), make()
    client.prepare(["a", "b"])
    other.prepare(["c"])
    worker.store(
        [
            record("a", "oid-1"),
            record("c", "oid-2"),
            record("b", "oid-1", "FAILURE"),
            record("x", ""),
            record("y", None),
        ]
    )
    assert dict(client.wait(["b", "a"], 10, is_ready)) == {"a": document("a"), "b": document("b", "FAILURE")}
    assert dict(other.wait(["c"], 10, is_ready)) == {"c": document("c")}
    # Asked again, it is still there, until it is forgotten.
    assert client.fetch(["a", "c"]) == {"a": document("a")}
    client.forget(["a", "nothing"])
    assert client.fetch(["a"]) == {}


def test_states_on_the_way_are_seen_but_not_waited_for(make: Callable[..., RpcStore]) -> None:
    client, worker = make("oid-1"), make()
    client.prepare(["a"])
    worker.store([record("a", "oid-1", "STARTED")])
    wait_for(lambda: client.fetch(["a"]) == {"a": document("a", "STARTED")}, 30, "STARTED")
    with pytest.raises(TimeoutError, match="1 of the results did not arrive within"):
        list(client.wait(["a"], 0.05, is_ready))
    worker.store([record("a", "oid-1")])
    assert dict(client.wait(["a"], 10, is_ready)) == {"a": document("a")}
    worker.store([record("a", "oid-1", "STARTED"), record("b", "oid-1")])
    list(client.wait(["b"], 10, is_ready))
    assert client.fetch(["a"]) == {"a": document("a")}, "a success was replaced"
    worker.store([record("c", "oid-1", "FAILURE"), record("c", "oid-1", "RETRY"), record("d", "oid-1")])
    list(client.wait(["d"], 10, is_ready))
    assert client.fetch(["c"]) == {"c": document("c", "FAILURE")}, "an end was replaced by a retry"


def test_many_threads_wait_at_once(make: Callable[..., RpcStore]) -> None:
    client, worker = make("oid-1"), make()
    ids = [f"t{number}" for number in range(60)]
    client.prepare(ids)
    got: dict[str, bytes] = {}
    began = threading.Barrier(7)

    def wait(mine: list[str]) -> None:
        began.wait(10)
        got.update(client.wait(mine, 20, is_ready))

    threads = [threading.Thread(target=wait, args=(ids[start::6],)) for start in range(6)]
    for thread in threads:
        thread.start()
    began.wait(10)
    # Backwards, so that whoever reads finds mostly what others wait for.
    for task_id in reversed(ids):
        worker.store([record(task_id, "oid-1")])
    for thread in threads:
        thread.join(20)
    assert got == {task_id: document(task_id) for task_id in ids}


def test_a_waiter_that_leaves_hands_over_the_reading(make: Callable[..., RpcStore]) -> None:
    client, worker = make("oid-1"), make()
    client.prepare(["a", "b"])
    got: dict[str, bytes] = {}
    ended = threading.Event()

    def impatient() -> None:
        with pytest.raises(TimeoutError):
            list(client.wait(["a"], 0.1, is_ready))
        ended.set()

    first = threading.Thread(target=impatient)
    first.start()
    second = threading.Thread(target=lambda: got.update(client.wait(["b"], 20, is_ready)))
    second.start()
    assert ended.wait(10)
    worker.store([record("b", "oid-1")])
    second.join(20)
    first.join(20)
    assert got == {"b": document("b")}


def test_the_caller_is_asked_now_and_then(make: Callable[..., RpcStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework_results.rpc.INTERVAL", 0.05)
    client, worker = make("oid-1"), make()
    client.prepare(["a"])
    calls = iter(range(100))

    def send_on_second() -> None:
        if next(calls) == 1:
            worker.store([record("a", "oid-1")])

    assert dict(client.wait(["a"], 30, is_ready, send_on_second)) == {"a": document("a")}


def test_a_client_that_is_gone_is_no_error(make: Callable[..., RpcStore]) -> None:
    client, worker = make("oid-1"), make()
    client.prepare(["a"])
    worker.store([record("a", f"gone-{uuid4()}"), record("b", "oid-1")])
    assert dict(client.wait(["b"], 10, is_ready)) == {"b": document("b")}


def test_only_so_many_unasked_results_are_kept(make: Callable[..., RpcStore]) -> None:
    client, worker = make("oid-1", keep=3), make()
    client.prepare(["x"])
    worker.store([record(f"t{number}", "oid-1") for number in range(5)])
    list(client.wait(["t4"], 10, is_ready))
    assert set(client.fetch([f"t{number}" for number in range(5)])) == {"t2", "t3", "t4"}


def test_waiting_needs_a_reply_queue_and_a_connection(make: Callable[..., RpcStore]) -> None:
    worker = make()
    with pytest.raises(ConfigError, match="no reply queue of its own"):
        list(worker.wait(["a"], 1, is_ready))
    with pytest.raises(ConfigError, match="no reply queue of its own"):
        worker.prepare(["a"])
    assert worker.fetch(["a"]) == {}
    storing_only = RpcStore("rpc://", RpcOptions(), ResultStoreContext(oid="oid-1"))
    with pytest.raises(ConfigError, match="needs a connection to the broker"):
        list(storing_only.wait(["a"], 1, is_ready))


def test_a_forked_child_sends_over_a_connection_of_its_own(make: Callable[..., RpcStore]) -> None:
    client, worker = make("oid-1"), make()
    client.prepare(["a", "b"])
    worker.store([record("a", "oid-1")])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            worker.store([record("b", "oid-1")])
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert set(dict(client.wait(["a", "b"], 10, is_ready))) == {"a", "b"}


def test_results_are_celerys_messages(amqp_url: str, request: pytest.FixtureRequest) -> None:
    _, transport = connect("amqp", request)
    worker = RpcStore("rpc://", RpcOptions(), ResultStoreContext(producer=transport.producer))
    with kombu.Connection(amqp_url) as connection:
        # Declared as Celery's client declares it: our client must be able to declare the same.
        queue = kombu.Queue("oid-1", kombu.Exchange(""), "oid-1", durable=True, auto_delete=True, expires=3600)(
            connection.channel()
        )
        queue.queue_declare()
        worker.store([record("a", "oid-1")])
        received = queue.get(no_ack=True)
        assert received.payload == {"status": "SUCCESS", "result": 3, "task_id": "a"}
        assert received.headers == {}
        assert received.properties["correlation_id"] == "a"
        assert received.properties["delivery_mode"] == 1
        client = RpcStore(
            "rpc://",
            RpcOptions(),
            ResultStoreContext(oid="oid-1", expires=3600.0, producer=transport.producer, consumer=transport.consumer),
        )
        client.prepare(["b"])
        connection.Producer().publish(
            {"status": "SUCCESS", "result": 4, "task_id": "b"}, routing_key="oid-1", correlation_id="b", delivery_mode=1
        )
        ((task_id, raw),) = client.wait(["b"], 10, is_ready)
        assert (task_id, json.loads(raw)["result"]) == ("b", 4)
        client.close()
        client.close()
    worker.close()
    transport.close()


def test_heartbeats_keep_the_reply_queue(amqp_url: str, tmp_path: Path) -> None:
    from framework_transports.amqp import AmqpOptions, AmqpTransport

    transport = AmqpTransport(amqp_url, AmqpOptions(), {"heartbeat": 1})
    client = RpcStore(
        "rpc://",
        RpcOptions(),
        ResultStoreContext(oid="oid-1", producer=transport.producer, consumer=transport.consumer),
    )
    client.prepare(["a"])
    consumer = client._consumer
    assert consumer is not None
    beats: list[int] = []
    send = consumer.heartbeat
    consumer.heartbeat = lambda: (beats.append(1), send())[1]  # type: ignore[method-assign]
    # Three times what the broker would put up with from a client that says nothing.
    wait_for(lambda: len(beats) >= 9, 30, lambda: f"9 heartbeats, had {len(beats)}")
    worker = RpcStore("rpc://", RpcOptions(), ResultStoreContext(producer=transport.producer))
    worker.store([record("a", "oid-1")])
    assert dict(client.wait(["a"], 10, is_ready)) == {"a": document("a")}
    for store in (client, worker):
        store.close()
    transport.close()


CELERY_CLIENT = """
import sys
from celery import Celery

app = Celery("peer", broker=sys.argv[1], backend="rpc://")
print(app.send_task("proj.add", (1, 2)).get(timeout=20))
"""


@pytest.mark.acceptance(225)
def test_a_celery_client_gets_our_result(amqp_url: str) -> None:
    from framework_transports.amqp import AmqpOptions, AmqpTransport

    transport = AmqpTransport(amqp_url, AmqpOptions(), {})
    consumer = transport.consumer()
    consumer.add_queue(Queue(name="celery", exchange=Exchange("celery"), routing_key="celery"))
    # In a process of its own: it leaves its connections to the end of that.
    with subprocess.Popen([sys.executable, "-c", CELERY_CLIENT, amqp_url], stdout=subprocess.PIPE, text=True) as client:
        found: list[Delivery] = []
        wait_for(lambda: found.extend(consumer.fetch(1)) or found, 20, "the task")
        incoming = read(found[0].payload)
        task_id, properties = incoming.headers["id"], incoming.properties
        worker = RpcStore("rpc://", RpcOptions(), ResultStoreContext(producer=transport.producer))
        raw = {"status": "SUCCESS", "result": 3, "traceback": None, "children": [], "task_id": task_id}
        worker.store(
            [Record(task_id, json.dumps(raw).encode(), "SUCCESS", properties["reply_to"], properties["correlation_id"])]
        )
        assert client.communicate(timeout=30)[0] == "3\n"
    found[0].ack()
    consumer.close(requeue=True)
    worker.close()
    transport.close()
