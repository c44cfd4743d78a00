"""The same program under Celery's worker and under ours: documents and what handlers are told (S 224, 226)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

import framework
from support import alike, ledger, workers
from support.wait import wait_for

LONG = 40
KINDS = ("celery", "framework")
PREFIX = "celery-task-meta-"
#: How many documents a program comes to: all of them are there before they are looked at.
SIZES = {
    "task": 1, "keyword arguments": 1, "failure": 1, "retries": 1, "chain": 3, "callbacks": 3, "callback": 2,
    "callback that is a chain": 3, "callback that is a chord": 4, "error callback": 2, "group": 2, "group of groups": 3,
    "chord": 3, "chord in a chain": 4, "chord whose body is a chain": 3, "sent by a task": 9,
    "sent by a task without a trail": 2, "replaced": 4, "stamped": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def sides(redis_server, tmp_path_factory) -> Iterator[dict[str, SimpleNamespace]]:
    """A worker of each kind with a broker and a ledger of its own, and a client of ours for each."""
    made: dict[str, SimpleNamespace] = {}
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            url = redis_server.fresh_url()
            book = tmp_path_factory.mktemp(kind) / "ledger"
            env = {**workers.app_environment(broker=url, backend=url, ledger=book), "TEST_LIBRARY": kind}
            start = workers.start_celery_worker if kind == "celery" else workers.start_worker
            # One slot: which task of a header comes last is then the same.
            quiet = ("--without-gossip", "--without-mingle") if kind == "celery" else ()
            worker = stack.enter_context(start(None, "-P", "threads", "-c", "1", *quiet, app="support.alike", env=env))
            app = stack.enter_context(contextlib.closing(alike.make(url, url, "framework")))
            store = stack.enter_context(contextlib.closing(redis.Redis.from_url(url)))
            made[kind] = SimpleNamespace(app=app, ledger=book, store=store, worker=worker)
        for side in made.values():
            side.worker.wait_ready()
        yield made


def _documents(store: redis.Redis) -> dict[str, dict[str, Any]]:
    found = {}
    for key in store.keys(f"{PREFIX}*"):
        raw = store.get(key)
        if raw is not None:
            found[key.decode().removeprefix(PREFIX)] = json.loads(raw)
    return found


def _told(documents: dict[str, dict[str, Any]]) -> list[Any]:
    """Return what documents tell, sorted, with names and arguments in the place of ids."""

    def label(task_id: str | None) -> Any:
        known = documents.get(task_id or "")
        if known is None:
            return task_id and "a group"
        args = ["an id" if str(arg) in documents else arg for arg in known["args"]]
        return f"{known['name']} {args} {known['kwargs']}"

    def child(one: Any) -> Any:
        (task_id, parent), members = one
        return [label(task_id), parent and child([parent, None]), members and sorted(map(str, map(child, members)))]

    told = []
    for task_id, document in documents.items():
        trace = document["traceback"]
        told.append(
            {
                **document,
                "task_id": label(task_id),
                "children": sorted(map(str, map(child, document["children"]))),
                "parent_id": label(document.get("parent_id")),
                "group_id": "a group" if document.get("group_id") else None,
                "date_done": bool(document["date_done"]),
                "traceback": trace and trace.strip().splitlines()[-1],
                "worker": bool(document["worker"]),
                "result": "an id" if str(document["result"]) in documents else document["result"],
                # The arguments of an error callback.
                "args": ["an id" if str(arg) in documents else arg for arg in document["args"]],
            }
        )
    return sorted(told, key=str)


def _run(side: SimpleNamespace, name: str) -> list[Any]:
    for key in side.store.keys("celery-task*"):
        side.store.delete(key)
    work = alike.PROGRAMS[name](framework, lambda task: side.app.tasks[f"alike.{task}"])
    work.apply_async()

    def complete() -> dict[str, dict[str, Any]] | None:
        found = _documents(side.store)
        final = all(document["date_done"] for document in found.values())
        return found if len(found) >= SIZES[name] and final else None

    return _told(wait_for(complete, timeout=LONG))


@pytest.mark.acceptance(224, 226)
@pytest.mark.parametrize("name", alike.PROGRAMS)
def test_the_documents_are_those_of_celery(sides, name):
    assert _run(sides["framework"], name) == _run(sides["celery"], name)


def test_a_task_that_has_begun_is_told_with_its_arguments(sides, tmp_path):
    told = {}
    for kind, side in sides.items():
        gate = tmp_path / kind
        result = side.app.tasks["alike.tracked"].apply_async((str(gate),), headers={"x": 1})
        try:
            document = wait_for(lambda r=result: r._read() if r.state == "STARTED" else None, timeout=LONG)
        finally:
            gate.touch()
        result.get(timeout=LONG)
        told[kind] = {key for key in document if document[key] is not None} - {"result"}
    assert told["framework"] == told["celery"]
    assert {"name", "args", "worker"} <= told["framework"]


def test_progress_is_told_to_whoever_waits(sides, tmp_path):
    told = {}
    for kind, side in sides.items():
        heard = told[kind] = []
        gate = tmp_path / kind

        def listen(document, heard=heard, gate=gate):
            heard.append({key: document.get(key) for key in ("status", "result", "name", "args", "queue", "retries")})
            gate.touch()

        result = side.app.tasks["alike.progress"].delay(str(gate))
        assert result.get(timeout=LONG, on_message=listen) == "end"
        for document in heard:
            assert document.pop("args") == [str(gate)]
    assert told["framework"] == told["celery"]
    assert [document["status"] for document in told["framework"]] == ["PROGRESS", "SUCCESS"]


@pytest.mark.parametrize("how", ["ok", "fail", "retry", "ignore", "reject", "replace"])
def test_handlers_are_told_what_celery_tells(sides, how):
    told = {}
    last = {"ok": "after_return", "fail": "after_return", "retry": "after_return"}.get(how, "before_start")
    for kind, side in sides.items():
        before = len(_entries(side.ledger))
        side.app.tasks["alike.handled"].delay(how, k=1)
        # A task behind it: nothing is told of the first any more when it has ended.
        wait_for(lambda s=side, b=before: last in str(_entries(s.ledger)[b:]), timeout=LONG)
        side.app.tasks["alike.add"].delay(1, 1).get(timeout=LONG)
        told[kind] = sorted(map(str, _entries(side.ledger)[before:]))
    assert told["framework"] == told["celery"]


def _entries(book: Path) -> list[Any]:
    return [json.loads(entry) for entry in ledger.read(book)]
