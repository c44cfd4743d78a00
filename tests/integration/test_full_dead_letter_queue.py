"""Dead letters that the broker does not accept: kept, tried again with back-off, logged once; other tasks go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from support import ledger, queues
from support.wait import wait_for

LONG = 60
DLQ = "celery.dlq"


@contextmanager
def wrong_key(url: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """Something else has the name of the queue."""
    del request
    with redis.Redis.from_url(url) as server:
        server.set(DLQ, "x")
        yield
        server.delete(DLQ)


@contextmanager
def full_queue(url: str, request: pytest.FixtureRequest) -> Iterator[None]:
    rabbit, vhost = request.getfixturevalue("rabbit_server"), urlsplit(url).path[1:]
    limit = '{"max-length": 0, "overflow": "reject-publish"}'
    rabbit.ctl("set_policy", "-p", vhost, "--apply-to", "queues", "full", "dlq$", limit)
    yield
    rabbit.ctl("clear_policy", "-p", vhost, "full")


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_dead_letters_wait_for_room_and_tasks_run_meanwhile(
    kind: str, request: pytest.FixtureRequest, client: Any, start_worker: Any, ledger_path: Path
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    app = client(url)
    conf = {"task_unknown_retries": 0, "accept_content": ["json"]}
    worker = start_worker("-P", "threads", "-c", "2", broker=url, ledger=ledger_path, conf=conf)
    rejected = app.tasks["proj.reject"]
    expected = {f"record {number}" for number in range(50)}
    with (wrong_key if kind == "redis" else full_queue)(url, request):
        for number in range(20):
            queues.push(url, b"not json at all", {"task": "proj.add", "id": f"bad{number}"})
        app.send_task("proj.missing", task_id="missing")
        rejected.apply_async(task_id="rejected")
        for reason in ("undecodable", "unregistered", "rejected"):
            worker.wait_line(rf"\({reason}\) from celery could not be moved to {DLQ}", LONG)
        for entry in expected:
            app.tasks["proj.record"].delay(entry)
        wait_for(lambda: set(ledger.read(ledger_path)) == expected, LONG, lambda: worker.output[-2000:])
        assert not worker.lines("moved to celery.dlq(:|$)|was moved to")
        assert len(worker.lines("could not be moved")) == 3, worker.output
    wait_for(lambda: queues.waiting(url, DLQ) == 22, LONG, lambda: worker.output[-2000:])
    wait_for(lambda: len(worker.lines(f"moved to {DLQ}: ")) == 21, LONG, lambda: worker.output[-2000:])
    assert len(worker.lines("'proj.missing'.*stored as a failure and moved to")) == 1
    assert worker.stop() == 0
    assert ledger.read(ledger_path).total() == len(expected)
    assert queues.waiting(url) == 0


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_messages_whose_dead_letter_waits_go_back_when_the_worker_stops(
    kind: str, request: pytest.FixtureRequest, start_worker: Any, ledger_path: Path
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    conf = {"worker_settle_timeout": 0.1}
    worker = start_worker("-P", "solo", broker=url, ledger=ledger_path, conf=conf)
    with (wrong_key if kind == "redis" else full_queue)(url, request):
        for number in range(5):
            queues.push(url, b"not json at all", {"task": "proj.add", "id": f"bad{number}"})
        worker.wait_line(rf"could not be moved to {DLQ}", LONG)
        assert worker.stop() == 0
        assert queues.waiting(url) == 5
    again = start_worker("-P", "solo", broker=url, ledger=ledger_path)
    wait_for(lambda: queues.waiting(url, DLQ) == 5, LONG, lambda: again.output[-2000:])
    assert again.stop() == 0
