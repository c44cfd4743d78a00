"""The Redis result store against a real server, and beside Celery's own backend."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis

from framework.api.result_store import Record, ResultStoreContext
from framework.exceptions import ConfigError, ConnectionLost
from framework.exceptions import TimeoutError as ResultTimeout
from framework_results.redis import RedisStore, RedisStoreOptions
from support.brokers import PrivateRedis
from support.wait import wait_for

MakeStore = Callable[..., RedisStore]


@pytest.fixture
def make_store(redis_url: str) -> Iterator[MakeStore]:
    stores: list[RedisStore] = []

    def make(url: str = redis_url, settings: dict[str, Any] | None = None, **options: Any) -> RedisStore:
        store = RedisStore(url, RedisStoreOptions(**options), ResultStoreContext(**settings or {}))
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> RedisStore:
    return make_store()


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def record(task_id: str, result: Any = None, state: str = "SUCCESS") -> Record:
    document = {"status": state, "result": result, "traceback": None, "children": [], "task_id": task_id}
    return Record(task_id, json.dumps(document).encode(), state)


def ready(document: bytes) -> bool:
    return json.loads(document)["status"] in ("SUCCESS", "FAILURE", "REVOKED")


def results(pairs: Any) -> dict[str, Any]:
    return {task_id: json.loads(document)["result"] for task_id, document in pairs}


def test_documents_are_kept_fetched_and_forgotten(store: RedisStore) -> None:
    store.store([record(f"t{number}", number) for number in range(1200)])
    found = store.fetch([f"t{number}" for number in range(1201)])
    assert len(found) == 1200
    assert found["t7"] == record("t7", 7).document
    store.forget(["t7", "missing"])
    assert store.fetch(["t7", "t8"]) == {"t8": record("t8", 8).document}
    store.store([])
    assert store.fetch([]) == {}
    store.forget([])


def test_a_stored_success_is_never_replaced(store: RedisStore) -> None:
    store.store([record("a", 1), record("b", 1, "FAILURE"), record("c", {"status": "SUCCESS"}, "STARTED")])
    store.store([record("a", 2, "FAILURE"), record("b", 2), record("c", 2)])
    assert results(store.fetch(["a", "b", "c"]).items()) == {"a": 1, "b": 2, "c": 2}
    # Within one batch too.
    store.store([record("d", 1), record("d", 2, "RETRY")])
    assert results(store.fetch(["d"]).items()) == {"d": 1}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickled_success_is_recognised(store: RedisStore, protocol: int) -> None:
    first = pickle.dumps({"status": "SUCCESS", "result": 1}, protocol)
    store.store([Record("p", first, "SUCCESS")])
    store.store([Record("p", pickle.dumps({"status": "FAILURE", "result": 2}, protocol), "FAILURE")])
    assert store.fetch(["p"]) == {"p": first}


def test_results_live_as_long_as_the_settings_say(make_store: MakeStore, server: redis.Redis) -> None:
    make_store(settings={"expires": 100.0, "failure_expires": 7}).store([record("a"), record("b", state="FAILURE")])
    assert 90 < server.ttl("celery-task-meta-a") <= 100
    assert 1 <= server.ttl("celery-task-meta-b") <= 7
    make_store(settings={"expires": 0}).store([record("c")])
    assert server.ttl("celery-task-meta-c") == -1
    make_store().store([record("d")])
    assert server.ttl("celery-task-meta-d") > 86_000


def test_a_key_prefix_is_celerys(make_store: MakeStore, server: redis.Redis) -> None:
    make_store(global_keyprefix="one").store([record("a")])
    make_store(global_keyprefix="two:").store([record("a")])
    assert sorted(server.scan_iter()) == [b"one_celery-task-meta-a", b"two:celery-task-meta-a"]


# ---------------------------------------------------------------- waiting


def test_what_is_there_is_yielded_at_once(store: RedisStore) -> None:
    store.store([record("a", 1)])
    assert results(store.wait(["a"], 0, ready)) == {"a": 1}
    assert results(store.wait(["a", "a"], 5, ready)) == {"a": 1}
    assert results(store.wait([], 5, ready)) == {}


def test_a_result_is_pushed_to_all_that_wait(store: RedisStore, make_store: MakeStore, server: redis.Redis) -> None:
    names = [f"t{number}" for number in range(40)]
    got: list[dict[str, Any]] = []

    def listening() -> int:
        return int(dict(server.pubsub_numsub("celery-task-meta-t39"))[b"celery-task-meta-t39"])

    def wait() -> None:
        got.append(results(store.wait(names, 20, ready)))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: listening() == 4, 30, "subscribers")
    writer = make_store()
    for name in names:
        # A state on the way is published as well, and is not the end.
        writer.store([record(name, state="STARTED")])
        writer.store([record(name, name)])
    for thread in threads:
        thread.join(20)
    assert got == [{name: name for name in names}] * 4
    # The subscriptions are let go, the connections kept for the next.
    assert listening() == 0
    clients = len(server.client_list())
    writer.store([record("later", 1)])
    assert results(store.wait(["later"], 5, ready)) == {"later": 1}
    assert len(server.client_list()) == clients


def test_waiting_ends_with_a_timeout(store: RedisStore) -> None:
    calls: list[int] = []
    store.store([record("here", 1)])
    waiting = store.wait(["here", "never"], 0.7, ready, lambda: calls.append(1))
    assert next(waiting)[0] == "here"
    with pytest.raises(ResultTimeout, match="1 results"):
        next(waiting)
    assert calls


def test_a_waiter_that_leaves_half_way_does_not_disturb_the_next(store: RedisStore, make_store: MakeStore) -> None:
    waiting = store.wait(["a", "b"], 10, ready, lambda: make_store().store([record("a", 1)]))
    assert next(waiting)[0] == "a"
    waiting.close()
    store.store([record("c", 3)])
    assert results(store.wait(["c", "a"], 5, ready)) == {"c": 3, "a": 1}


@pytest.fixture
def without_channels(redis_url: str, server: redis.Redis) -> Iterator[str]:
    """The URL of an account that may use no channel."""
    server.execute_command("ACL", "SETUSER", "nochan", "on", ">secret", "~*", "+@all", "resetchannels")
    yield redis_url.replace("://", "://nochan:secret@")
    server.execute_command("ACL", "DELUSER", "nochan")


@pytest.mark.parametrize("who", ["client", "worker", "both"])
def test_an_account_without_channels_gets_results_and_is_told(
    make_store: MakeStore, without_channels: str, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    reader = make_store(without_channels) if who != "worker" else make_store()
    writer = make_store(without_channels) if who != "client" else make_store()
    found: dict[str, Any] = {}
    asked = threading.Event()
    waiter = threading.Thread(
        target=lambda: found.update(results(reader.wait(["a", "b"], 60, ready, on_interval=asked.set)))
    )
    waiter.start()
    assert asked.wait(60)
    writer.store([record("a", 1)])
    writer.store([record("b", 2)])
    waiter.join(60)
    assert found == {"a": 1, "b": 2}
    writer.save_group("g", b"{}")
    assert writer.fetch_group("g") == b"{}"
    told = [entry.getMessage() for entry in caplog.records]
    assert len(told) == (2 if who == "both" else 1)
    assert all("ACL SETUSER nochan +subscribe +unsubscribe +publish &celery-task-meta-*" in text for text in told)
    assert not any("secret" in text for text in told)
    with pytest.raises(ResultTimeout):
        list(reader.wait(["never"], 0.1, ready))


def test_many_results_in_a_race(store: RedisStore, make_store: MakeStore) -> None:
    names = [f"t{number}" for number in range(2000)]
    writer = make_store()

    def write() -> None:
        for start in range(0, len(names), 50):
            writer.store([record(name, name) for name in names[start : start + 50]])

    thread = threading.Thread(target=write)
    thread.start()
    assert len(results(store.wait(names, 20, ready))) == 2000
    thread.join()


# ---------------------------------------------------------------- beside Celery


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_celery_reads_ours_and_we_read_celerys(store: RedisStore, redis_url: str) -> None:
    import celery

    app = celery.Celery("t", broker=redis_url, backend=redis_url)
    try:
        done = {"status": "SUCCESS", "result": [1, "é"], "traceback": None, "children": [], "task_id": "ours"}
        store.store([Record("ours", json.dumps(done).encode(), "SUCCESS")])
        assert app.AsyncResult("ours").get(timeout=30) == [1, "é"]
        app.backend.store_result("theirs", 5, "SUCCESS")
        assert results(store.wait(["theirs"], 5, ready)) == {"theirs": 5}
        store.store([record("theirs", 6, "FAILURE")])
        assert app.AsyncResult("theirs").get(timeout=30) == 5
        waiting = app.AsyncResult("pushed")
        thread = threading.Timer(0.05, store.store, [[record("pushed", 9)]])
        thread.start()
        assert waiting.get(timeout=30) == 9
        thread.join()
    finally:
        app.backend.result_consumer.stop()
        app.close()


# ---------------------------------------------------------------- trouble


def test_a_lost_server_is_a_lost_connection(tmp_path: Any) -> None:
    server = PrivateRedis(tmp_path / "own", persist=True)
    server.start()
    store = RedisStore(server.url, RedisStoreOptions(), ResultStoreContext())
    try:
        store.store([record("a", 1)])
        server.restart()
        # Noticed before anything was sent.
        assert results(store.fetch(["a"]).items()) == {"a": 1}
        waiting = store.wait(["never"], 20, ready, server.stop)
        with pytest.raises(ConnectionLost):
            next(waiting)
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            store.store([record("b", 1)])
        server.start()
        store.store([record("b", 1)])
    finally:
        store.close()
        server.close()
    with pytest.raises(ConnectionLost):
        store.fetch(["a"])


def test_a_full_server_is_one_that_cannot_be_reached(tmp_path: Any) -> None:
    server = PrivateRedis(tmp_path / "own", options=("--maxmemory", "1mb"))
    server.start()
    store = RedisStore(server.url, RedisStoreOptions(), ResultStoreContext())
    try:
        # Whoever stores keeps the result, and tries again.
        with pytest.raises(ConnectionLost, match="OOM"):
            store.store([record("b", 1)])
    finally:
        store.close()
        server.close()


def test_a_flushed_script_is_sent_again(store: RedisStore, server: redis.Redis) -> None:
    store.store([record("a", 1)])
    server.script_flush()
    store.store([record("b", 2)])
    assert results(store.fetch(["a", "b"]).items()) == {"a": 1, "b": 2}


def test_a_fork_has_a_connection_of_its_own(store: RedisStore) -> None:
    store.store([record("a", 1)])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.store([record("child", 2)])
            code = 0 if results(store.wait(["child", "parent"], 10, ready)) == {"child": 2, "parent": 3} else 2
        finally:
            os._exit(code)
    store.store([record("parent", 3)])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert results(store.fetch(["a", "child"]).items()) == {"a": 1, "child": 2}


def test_options_are_typed() -> None:
    assert msgspec.convert({"socket_timeout": 3, "use_ssl": {"ssl_cert_reqs": "none"}}, RedisStoreOptions)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"socket_timeout": 0}, RedisStoreOptions)


def test_no_password_is_shown(make_store: MakeStore) -> None:
    store = make_store("redis://:secret@127.0.0.1:1/0")
    assert "secret" not in store.display_url
    with pytest.raises(ConnectionLost) as caught:
        store.fetch(["a"])
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError):
        make_store("redis://h/zero")
