"""Results in a SQLite file, and the store that keeps nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framework.api.plugin import NoOptions
from framework.api.result_store import Record, ResultStoreContext
from framework.exceptions import ConnectionLost, FrameworkError, TimeoutError  # noqa: A004
from framework_results.none import NoneStore
from framework_results.sqlite import SqliteStore, SqliteStoreOptions
from support.wait import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

Make = Callable[..., SqliteStore]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    stores = []

    def begin(name: str = "results.db", **settings: Any) -> SqliteStore:
        store = SqliteStore(f"sqlite:///{tmp_path}/{name}", SqliteStoreOptions(), ResultStoreContext(**settings))
        stores.append(store)
        return store

    yield begin
    for store in stores:
        store.close()


def record(task_id: str, state: str = "SUCCESS", result: Any = None) -> Record:
    document = json.dumps({"status": state, "result": result, "task_id": task_id}).encode()
    return Record(task_id=task_id, document=document, state=state)


def is_ready(document: bytes) -> bool:
    return json.loads(document)["status"] in ("SUCCESS", "FAILURE")


def results(found: dict[str, bytes]) -> dict[str, Any]:
    return {task_id: json.loads(document)["result"] for task_id, document in found.items()}


def test_store_and_fetch(make: Make) -> None:
    make().store([record("a", result=1), record("b", result=2)])
    assert results(make().fetch(["a", "b", "c"])) == {"a": 1, "b": 2}
    assert results(make().fetch(["b"])) == {"b": 2}
    assert make().fetch([]) == {}


def test_a_success_is_never_replaced(make: Make) -> None:
    store = make()
    store.store([record("a", "STARTED", 1)])
    store.store([record("a", "RETRY", 2)])
    assert results(store.fetch(["a"])) == {"a": 2}
    store.store([record("a", "SUCCESS", 3)])
    store.store([record("a", "FAILURE", 4), record("b", "FAILURE", 5)])
    store.store([record("a", "SUCCESS", 6), record("b", "SUCCESS", 7)])
    assert results(store.fetch(["a", "b"])) == {"a": 3, "b": 7}


def test_within_one_batch_the_later_document_counts(make: Make) -> None:
    store = make()
    store.store([record("a", "STARTED", 1), record("a", "SUCCESS", 2), record("a", "STARTED", 3)])
    assert results(store.fetch(["a"])) == {"a": 2}


def test_forget(make: Make) -> None:
    store = make()
    store.store([record("a"), record("b")])
    store.forget(["a", "unknown"])
    assert list(store.fetch(["a", "b"])) == ["b"]


def age(store: SqliteStore, seconds: float) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        connection.execute("UPDATE framework_results SET expires = expires - ?", (seconds,))


def test_expiry(make: Make) -> None:
    store = make(expires=100, failure_expires=1000)
    store.store([record("good"), record("bad", "FAILURE")])
    make(expires=0).store([record("kept")])
    age(store, 101)
    assert set(store.fetch(["good", "bad", "kept"])) == {"bad", "kept"}
    store.store([record("good", "STARTED", "a new life")])
    assert results(store.fetch(["good"])) == {"good": "a new life"}
    age(store, 1000)
    # The next store, by whoever, drops what is over.
    make().store([record("new")])
    with closing(sqlite3.connect(store.path)) as connection:
        left = {row[0] for row in connection.execute("SELECT task_id FROM framework_results")}
    assert left == {"kept", "new"}


def test_wait_yields_what_is_there_already(make: Make) -> None:
    store = make()
    store.store([record("a", result=1)])
    assert results(dict(store.wait(["a", "a"], 0, is_ready))) == {"a": 1}
    assert list(store.wait([], 0, is_ready)) == []


def test_wait_is_woken_by_another_process(make: Make, tmp_path: Path) -> None:
    code = """
import sys
from framework.api.result_store import Record, ResultStoreContext
from framework_results.sqlite import SqliteStore, SqliteStoreOptions
store = SqliteStore(sys.argv[1], SqliteStoreOptions(), ResultStoreContext())
for line in sys.stdin:
    state, task_id = line.split()
    store.store([Record(task_id=task_id, document=b'{"status": "%s", "result": 1}' % state.encode(), state=state)])
    print("stored", flush=True)
"""
    store = make()
    store.store([record("other")])
    with subprocess.Popen(
        [sys.executable, "-c", code, store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        waiting = store.wait(["a", "b"], 30, is_ready)
        process.stdin.write("STARTED a\nSUCCESS noise\nSUCCESS b\nSUCCESS a\n")
        process.stdin.flush()
        assert sorted(task_id for task_id, _ in waiting) == ["a", "b"]
        process.stdin.close()
    assert not os.path.exists(f"{store.path}-wake")


def test_the_very_first_result_of_a_file_wakes(make: Make, tmp_path: Path) -> None:
    waiter, writer = make(), make()

    def write_once_somebody_waits() -> None:
        wait_for((tmp_path / "results.db-wake").exists, 30, "the waiting client's doorbell")
        writer.store([record("a", result=1)])

    thread = threading.Thread(target=write_once_somebody_waits)
    thread.start()
    assert results(dict(waiter.wait(["a"], 30, is_ready))) == {"a": 1}
    thread.join()


def test_wait_gives_up(make: Make) -> None:
    store = make()
    store.store([record("a", "STARTED")])
    with pytest.raises(TimeoutError, match=r"1 result.* within 0\.05 s"):
        list(store.wait(["a"], 0.05, is_ready))
    assert not os.path.exists(f"{store.path}-wake")


def test_thousands_at_once(make: Make) -> None:
    store = make()
    names = [f"t{n}" for n in range(5000)]
    thread = threading.Thread(
        target=lambda: [make().store([record(name) for name in names[n : n + 100]]) for n in range(0, 5000, 100)]
    )
    thread.start()
    assert sorted(task_id for task_id, _ in store.wait(names, 30, is_ready)) == sorted(names)
    thread.join()
    assert len(store.fetch(names)) == 5000


def test_it_shares_the_brokers_file(make: Make, tmp_path: Path) -> None:
    transports = pytest.importorskip("framework_transports.sqlite")
    transport = transports.SqliteTransport(f"sqlite:///{tmp_path}/framework.db", transports.SqliteOptions(), {})
    with closing(transport.producer()):
        store = make("framework.db")
        store.store([record("a", result=1)])
        assert results(store.fetch(["a"])) == {"a": 1}


def test_it_survives_a_fork(make: Make) -> None:
    store = make()
    store.store([record("parent")])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store.store([record("child")])
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    store.store([record("parent again")])
    assert len(store.fetch(["parent", "child", "parent again"])) == 3


def test_it_connects_again_after_close(make: Make) -> None:
    store = make()
    store.close()
    store.close()
    store.store([record("a")])
    store.close()
    assert list(store.fetch(["a"])) == ["a"]


def test_a_file_that_is_no_database(make: Make) -> None:
    store = make()
    Path(store.path).write_text("notes" * 1000)
    with pytest.raises(ConnectionLost, match="is not a SQLite database"):
        store.fetch(["a"])


def test_none_says_how_to_get_results() -> None:
    store = NoneStore("", NoOptions(), ResultStoreContext())
    store.store([record("a")])
    store.forget(["a"])
    store.close()
    assert store.fetch(["a"]) == {}
    assert not store.traits.stores
    with pytest.raises(FrameworkError, match=r'\[result\] backend = "sqlite:///results\.db"'):
        store.wait(["a"], 1, is_ready)
