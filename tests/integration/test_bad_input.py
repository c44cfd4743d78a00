"""Messages that nobody can run: one log line each, a place in the dead-letter queue, and the next task runs."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any, NamedTuple

import pytest

from support import ledger, queues
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
DLQ = "celery.dlq"
CALL = b'[["x"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


class Bad(NamedTuple):
    """A message that cannot become a task."""

    name: str
    body: bytes = CALL
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    headers: dict[str, Any] | None = None
    task: str = "proj.record"


BAD = [
    Bad("undecodable-json", b'[["x"], {'),
    Bad("not-utf8", b'[["\xff\xfe"], {}, {}]'),
    Bad("unknown-encoding", content_encoding="utf-99"),
    Bad("unknown-content-type", content_type="application/x-nonsense"),
    Bad("pickle", pickle.dumps((["x"], {}, {})), "application/x-python-serialize", "binary"),
    Bad("wrong-shape", b'{"args": 1}'),
    Bad("args-not-a-list", b"[7, {}, {}]"),
    Bad("kwargs-not-a-dict", b"[[], 7, {}]"),
    Bad("nested", b"[" * 10_000 + b"]" * 10_000),
    Bad("bad-eta", headers={"eta": "tomorrow"}),
    Bad("bad-expires", headers={"expires": "never"}),
    Bad("unknown-task", task="proj.nowhere"),
]


def headers(bad: Bad, task_id: str) -> dict[str, Any]:
    return {
        "lang": "py",
        "task": bad.task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "eta": None,
        "expires": None,
        "argsrepr": "('x',)",
        "kwargsrepr": "{}",
        "origin": "test@here",
        "ignore_result": True,
    } | (bad.headers or {})


def complaints(worker, about: str) -> list[str]:
    return worker.lines(rf"(WARNING|ERROR|CRITICAL).*{re.escape(about)}")


@pytest.mark.parametrize("pool", POOLS)
def test_bad_messages_are_set_aside_and_good_ones_run(pool, broker_url, start_worker, client, ledger_path):
    at_once = {"task_unknown_retries": 0}
    worker = start_worker("-P", pool, "-c", "1", broker=broker_url, ledger=ledger_path, conf=at_once)
    record = client(broker_url).tasks["proj.record"]
    for number, bad in enumerate(BAD, 1):
        task_id = f"id-of-{bad.name}"
        queues.push(
            broker_url,
            bad.body,
            headers(bad, task_id),
            content_type=bad.content_type,
            content_encoding=bad.content_encoding,
            properties={"correlation_id": task_id},
        )
        record.delay(number)
        wait_for(
            lambda number=number: ledger.read(ledger_path)[str(number)] == 1,
            10,
            lambda bad=bad: f"the task after {bad.name}; the worker said: {worker.output[-3000:]}",
        )
        wait_for(
            lambda number=number: queues.waiting(broker_url, DLQ) == number,
            10,
            lambda bad=bad: f"{bad.name} in {DLQ}; the worker said: {worker.output[-3000:]}",
        )
        # It is in its place before the worker says so.
        wait_for(lambda task_id=task_id: complaints(worker, task_id), 30, f"a line about {task_id}")
        assert len(complaints(worker, task_id)) == 1, worker.output
    assert "Traceback" not in worker.output
    assert "x" not in ledger.read(ledger_path)
    assert worker.stop() == 0
    assert queues.waiting(broker_url) == 0


def test_a_message_without_headers_is_set_aside(broker_url, start_worker, client, ledger_path):
    worker = start_worker("-P", "solo", broker=broker_url, ledger=ledger_path)
    queues.push(broker_url, b"", {}, content_type="", content_encoding="")
    client(broker_url).tasks["proj.record"].delay("good")
    wait_for(lambda: ledger.read(ledger_path)["good"] == 1, 30, lambda: f"the good task: {worker.output}")
    wait_for(lambda: queues.waiting(broker_url, DLQ) == 1, 30, lambda: f"a dead letter: {worker.output}")
    assert len(complaints(worker, "without id")) == 1
    assert worker.running


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no json at all",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"body": 3}',
        b'{"headers": []}',
        b'{"body": "!!!", "headers": {"task": "proj.record", "id": "x"}, "properties": {"body_encoding": "base64"}}',
        b"[" * 100_000,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_bytes_that_are_no_envelope_are_set_aside_on_redis(raw, redis_broken_worker):
    redis_broken_worker(raw)


@pytest.fixture(scope="module")
def redis_broken_worker(redis_server, tmp_path_factory):
    """One worker for all of them: it has to outlive each."""
    from support import proj, workers

    path = tmp_path_factory.mktemp("bad") / "ledger"
    url = redis_server.fresh_url()
    app = proj.make_app(url)
    worker = workers.start_worker(None, "-P", "solo", env=workers.app_environment(broker=url, ledger=path))
    try:
        worker.wait_ready()

        def check(raw):
            before, done = queues.waiting(url, DLQ), ledger.size(path) + 1
            queues.push_bytes(url, raw)
            app.tasks["proj.record"].delay("good")
            wait_for(lambda: ledger.size(path) >= done or not worker.running, 30, lambda: worker.output[-3000:])
            wait_for(lambda: queues.waiting(url, DLQ) == before + 1, 30, lambda: worker.output[-3000:])
            assert worker.running, worker.output
            assert "Traceback" not in worker.output

        yield check
    finally:
        worker.close()
        app.close()


def test_a_hundred_megabytes_are_set_aside(broker_url, start_worker, client, ledger_path):
    worker = start_worker("-P", "threads", "-c", "1", broker=broker_url, ledger=ledger_path)
    body = b'[["' + b"x" * 100_000_000 + b'"], {}, {}]'
    queues.push(broker_url, body, headers(Bad("huge"), "id-of-huge"), properties={"correlation_id": "id-of-huge"})
    client(broker_url).tasks["proj.record"].delay("good")
    wait_for(lambda: ledger.read(ledger_path)["good"] == 1, 30, lambda: f"the good task: {worker.output}")
    wait_for(lambda: queues.waiting(broker_url, DLQ) == 1, 30, lambda: f"a dead letter: {worker.output}")
    assert len(complaints(worker, "id-of-huge")) == 1
    assert ledger.size(ledger_path) == 1


def test_failures_of_the_call_are_stored_results(broker_url, backend_url, start_worker, client):
    worker = start_worker(
        "-P", "solo", broker=broker_url, backend=backend_url, conf={"task_unknown_retries": 1, "task_unknown_delay": 0}
    )
    app = client(broker_url, backend_url)
    with pytest.raises(TypeError, match="argument"):
        app.send_task("proj.add", (1,)).get(timeout=30)
    with pytest.raises(Exception, match=r"proj\.nowhere"):
        app.send_task("proj.nowhere").get(timeout=30)
    assert app.tasks["proj.add"].delay(1, 2).get(timeout=30) == 3
    assert worker.running


def test_a_message_set_aside_can_be_read_again(redis_url, start_worker):
    start_worker("-P", "solo", broker=redis_url)
    queues.push(redis_url, b"[", headers(Bad("x"), "the-id"), properties={"correlation_id": "the-id"})
    wait_for(lambda: queues.waiting(redis_url, DLQ) == 1, 30, "a dead letter")
    import base64

    import redis

    with redis.Redis.from_url(redis_url) as peek:
        letter = json.loads(peek.lindex(DLQ, 0))
    note = letter["headers"]["dead_letter"]
    assert note["queue"] == "celery"
    assert note["reason"] == "undecodable"
    original = json.loads(base64.b64decode(letter["body"]))
    assert original["headers"]["id"] == "the-id"
    assert base64.b64decode(original["body"]) == b"["
