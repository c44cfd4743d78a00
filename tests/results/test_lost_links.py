"""A program that waits for results keeps waiting when the connection to the result store is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from framework import App
from framework.api.result_store import Record
from framework.exceptions import ConnectionLost, TransportError
from framework.exceptions import TimeoutError as ResultTimeout
from framework.wire.result_document import Documents
from framework_results.rpc import RpcStore
from support.brokers import PrivateRedis
from support.ports import free_port
from support.wait import wait_for

#: Seconds that a wait may take here; each ends much earlier.
PATIENCE = 60.0


@pytest.fixture
def make_app() -> Iterator[Callable[..., App]]:
    made: list[App] = []

    def make(broker: str, backend: str) -> App:
        made.append(App("proj", broker=broker, backend=backend))
        return made[-1]

    yield make
    for app in made:
        app.close()


def store(app: App, task_id: str, value: object) -> None:
    document = Documents("json", None).build("SUCCESS", value, task_id)
    app.result_store.store([Record(task_id, document, "SUCCESS", app.oid, task_id)])


WAYS: dict[str, Callable[[App], object]] = {
    "get": lambda app: [app.AsyncResult("A").get(PATIENCE), app.AsyncResult("B").get(PATIENCE)],
    "aget": lambda app: [asyncio.run(app.AsyncResult(one).aget(PATIENCE)) for one in "AB"],
    "group.get": lambda app: both(app).get(PATIENCE),
    "join": lambda app: both(app).join_native(PATIENCE),
    "iterate": lambda app: sorted(value for _, value in both(app).iterate(PATIENCE)),
    "collect": lambda app: [value for one in "AB" for _, value in app.AsyncResult(one).collect(timeout=PATIENCE)],
}


def both(app: App) -> Any:
    return app.GroupResult("G", [app.AsyncResult("A"), app.AsyncResult("B")])


@pytest.mark.parametrize("way", WAYS)
def test_a_wait_outlives_lost_subscriptions(
    way: str, make_app: Callable[..., App], sqlite_url: str, redis_server: PrivateRedis
) -> None:
    url = redis_server.fresh_url()
    app, worker = make_app(sqlite_url, url), make_app(sqlite_url, url)
    with redis.Redis.from_url(url) as server, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(WAYS[way], app)

        def cut() -> None:
            """Cut the connection of the waiting client as soon as it waits."""
            wait_for(lambda: server.client_kill_filter(_type="pubsub") or waiting.done(), PATIENCE, "a subscriber")
            assert not waiting.done(), waiting.result()

        for _ in range(3):
            cut()
        store(worker, "A", 1)
        cut()
        store(worker, "B", 2)
        assert waiting.result(PATIENCE) == [1, 2]


def hang_up(reply_store: RpcStore) -> None:
    """Cut the link of the reply queue that is consumed at present."""
    wait_for(lambda: reply_store._consumer is not None, PATIENCE, "a consumer")
    consumer = reply_store._consumer
    assert consumer is not None

    def replaced() -> bool:
        if reply_store._consumer is consumer:
            # Again and again: a consumer may have mended its link itself.
            with (
                contextlib.suppress(OSError, TransportError),  # it is being closed
                socket.socket(fileno=os.dup(consumer.fileno())) as link,
            ):
                link.shutdown(socket.SHUT_RDWR)
        return reply_store._consumer not in (None, consumer)

    wait_for(replaced, PATIENCE, "another consumer")


def arrives(app: App, task_id: str, value: object) -> None:
    """Send a result until it arrives: the broker may give some to the lost consumer before it notices the loss."""
    wait_for(
        lambda: store(app, task_id, value) or app.result_store.fetch([task_id]), PATIENCE, f"the result of {task_id}"
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["amqp_url", "redis_url"])
def test_a_wait_outlives_lost_reply_queues(
    scheme: str, way: str, make_app: Callable[..., App], request: pytest.FixtureRequest
) -> None:
    app = make_app(request.getfixturevalue(scheme), "rpc://")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(WAYS[way], app)
        reply_store = app.result_store
        assert isinstance(reply_store, RpcStore)
        for _ in range(2):
            hang_up(reply_store)
        arrives(app, "A", 1)
        hang_up(reply_store)
        arrives(app, "B", 2)
        assert waiting.result(PATIENCE) == [1, 2]


def test_a_look_at_a_lost_reply_queue_connects_again(amqp_url: str, make_app: Callable[..., App]) -> None:
    app = make_app(amqp_url, "rpc://")
    result = app.AsyncResult("A")
    assert result.state == "PENDING"
    reply_store = app.result_store
    assert isinstance(reply_store, RpcStore)
    consumer = reply_store._consumer
    assert consumer is not None
    with socket.socket(fileno=os.dup(consumer.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)
    assert result.state == "PENDING"
    store(app, "A", 1)
    wait_for(result.ready, PATIENCE, "the result")


def test_a_wait_ends_in_time_while_the_store_is_away(
    make_app: Callable[..., App], sqlite_url: str, private_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = private_server(lambda: PrivateRedis(persist=True))
    app = make_app(sqlite_url, server.url)
    result = app.AsyncResult("A")
    stopped: list[None] = []

    def stop() -> None:
        if not stopped:
            stopped.append(None)
            server.stop()

    with pytest.raises(ResultTimeout, match=r"within 3 s: the result store redis://.* is away") as caught:
        result.get(timeout=3, on_interval=stop)
    assert isinstance(caught.value.__cause__, ConnectionLost)
    assert [one.getMessage() for one in caplog.records if "waiting on for 1 results" in one.getMessage()], caplog.text
    # Away from the start: as a result that does not come.
    with pytest.raises(ResultTimeout, match="is away"):
        both(app).get(timeout=0)

    def start() -> None:
        if not server.running:
            server.start()
            store(app, "A", 1)

    assert result.get(timeout=PATIENCE, on_interval=start) == 1


def test_a_wait_ends_with_its_application(make_app: Callable[..., App], sqlite_url: str, redis_url: str) -> None:
    app = make_app(sqlite_url, redis_url)
    with pytest.raises(ConnectionLost, match="has been closed"):
        app.AsyncResult("A").get(timeout=PATIENCE, on_interval=app.close)


def test_a_store_that_was_never_reached_is_an_error_at_once(client):
    url = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(ConnectionLost):
        client("memory://", url).AsyncResult("x").get()
