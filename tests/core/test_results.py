"""Results: waited for, read and raised again; the documents are those that a worker stores."""

from __future__ import annotations

import threading

import pytest

from framework import App, chain, group
from framework.api.result_store import Record
from framework.exceptions import (
    ConfigError,
    IncompleteStream,
    TaskRevokedError,
    TimeoutError,  # noqa: A004 - the name users catch
)
from framework.wire.result_document import Documents


@pytest.fixture
def app(sqlite_url):
    app = App("proj", broker=sqlite_url, backend=sqlite_url)
    yield app
    app.close()


def store(app, task_id, state, value, **more):
    compression = more.pop("compression", None)
    document = Documents("json", compression).build(state, value, task_id, **more)
    app.result_store.store([Record(task_id, document, state)])


def test_a_result_is_waited_for_read_and_forgotten(app):
    result = app.AsyncResult("A")
    assert (result.state, result.result, result.ready()) == ("PENDING", None, False)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.05)
    threading.Timer(0.05, store, (app, "A", "SUCCESS", {"x": [1]})).start()
    assert result.get(timeout=30) == {"x": [1]}
    assert result.successful()
    assert result.date_done is not None
    result.forget()
    assert app.AsyncResult("A").state == "PENDING"


def test_each_state_on_the_way_is_told_once(app):
    heard = []
    begun = threading.Event()

    def listen(document):
        heard.append((document["task_id"], document["status"], document["result"]))
        begun.set()

    def work():
        assert begun.wait(20)
        store(app, "A", "PROGRESS", {"done": 2})
        store(app, "A", "SUCCESS", "end")

    store(app, "A", "PROGRESS", {"done": 1})
    store(app, "B", "SUCCESS", 2)
    worker = threading.Thread(target=work)
    worker.start()
    try:
        group_of_both = app.GroupResult("G", [app.AsyncResult("A"), app.AsyncResult("B")])
        assert group_of_both.get(timeout=20, on_message=listen) == ["end", 2]
    finally:
        worker.join()
    assert {("A", "PROGRESS", 1), ("B", "SUCCESS", 2)} <= {
        (task, state, value["done"] if isinstance(value, dict) else value) for task, state, value in heard
    }
    assert heard[-1] == ("A", "SUCCESS", "end")
    assert heard.count(("B", "SUCCESS", 2)) == 1
    once = []
    assert app.AsyncResult("A").get(timeout=20, on_message=once.append) == "end"
    assert [document["status"] for document in once] == ["SUCCESS"]


def test_an_exception_that_a_task_returns_is_no_failure(app):
    store(app, "A", "SUCCESS", ValueError("returned"))
    found = app.AsyncResult("A")
    assert (found.state, type(found.get(timeout=20)), str(found.result)) == ("SUCCESS", ValueError, "returned")


def test_a_set_gives_up_what_it_has(app):
    kept, other = app.AsyncResult("A"), app.AsyncResult("B")
    results = app.ResultSet([kept])
    results.discard(other)
    assert list(results) == [kept]
    with pytest.raises(KeyError):
        results.remove(other)
    results.discard(kept)
    assert (len(results), kept.ignored, kept.exists()) == (0, False, False)


def test_a_failure_is_raised_as_what_it_was(app):
    store(app, "A", "FAILURE", ValueError("boom", 3), traceback="Traceback …", children=[[["C", None], None]])
    store(app, "B", "REVOKED", TaskRevokedError("terminated"))
    failed = app.AsyncResult("A")
    with pytest.raises(ValueError, match="boom") as caught:
        failed.get(timeout=20)
    assert caught.value.args == ("boom", 3)
    assert isinstance(failed.get(propagate=False), ValueError)
    assert (failed.failed(), failed.traceback, failed.children[0].id) == (True, "Traceback …", "C")
    with pytest.raises(TaskRevokedError):
        app.AsyncResult("B").get(timeout=20)


def test_a_compressed_document_and_one_of_the_tasks_own_state(app):
    store(app, "A", "SUCCESS", "x" * 999, compression="gzip")
    store(app, "B", "PROGRESS", {"done": 5})
    assert app.AsyncResult("A").get(timeout=20) == "x" * 999
    assert (app.AsyncResult("B").state, app.AsyncResult("B").info) == ("PROGRESS", {"done": 5})


def test_many_results_are_waited_for_together(app):
    both = app.ResultSet([app.AsyncResult("A"), app.AsyncResult("B")])
    store(app, "B", "SUCCESS", 2)
    assert (both.completed_count(), both.ready()) == (1, False)
    threading.Timer(0.05, store, (app, "A", "SUCCESS", 1)).start()
    assert [value for _result, value in both.iterate(timeout=10)] == [2, 1]
    assert both.join(timeout=20) == [1, 2]
    assert both.successful()
    store(app, "C", "FAILURE", KeyError("k"))
    both.add(app.AsyncResult("C"))
    with pytest.raises(KeyError):
        both.join(timeout=20)


def test_a_chain_that_fails_early_ends_the_wait(app):
    @app.task
    def add(x, y):
        return x + y

    last = chain(add.s(1, 2), add.s(3)).apply_async()
    store(app, last.parent.id, "FAILURE", ValueError("early"))
    with pytest.raises(ValueError, match="early"):
        last.get(timeout=30)


def test_ignored_results_are_not_waited_for(app):
    @app.task(ignore_result=True)
    def quiet():
        pass

    assert quiet.delay().get() is None
    assert group(quiet.si(), quiet.si()).apply_async().id


def test_without_a_store_the_error_says_what_to_set(sqlite_url):
    app = App("proj", broker=sqlite_url, backend="none://")
    with pytest.raises(ConfigError, match="set backend under"):
        app.AsyncResult("A").get(timeout=1)
    app.close()


def test_the_results_below_one_are_collected_level_by_level(app):
    store(app, "A", "SUCCESS", 1, children=[[["B", None], None], [["C", None], None]])
    store(app, "B", "SUCCESS", 2, children=[[["D", None], None]])
    store(app, "C", "SUCCESS", 3)
    result = app.AsyncResult("A")
    with pytest.raises(IncompleteStream, match="D has not ended"):
        list(result.iterdeps())
    assert [node.id for _, node in result.iterdeps(intermediate=True)] == ["A", "B", "C", "D"]
    threading.Timer(0.05, store, (app, "D", "SUCCESS", 4)).start()
    assert [(node.id, value) for node, value in result.collect(timeout=10)] == [("A", 1), ("B", 2), ("C", 3), ("D", 4)]
    assert app.AsyncResult("A").get_leaf() == 4
    assert result.backend is app.result_store
