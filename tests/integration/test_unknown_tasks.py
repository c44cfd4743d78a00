"""Tasks that no worker has: they are handed back a few times, and then dead letters."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from contextlib import closing
from datetime import datetime

import pytest

from framework._boot import loader
from framework.api.transport import Queue
from framework.exceptions import NotRegistered, TaskRevokedError
from framework.message import HANDED_BACK
from support import ledger, queues, workers
from support.wait import wait_for

DLQ = "celery.dlq"
OLD, NEW = "support.rollout:old", "support.rollout:new"
FRESH = "rollout.fresh"


@pytest.fixture
def release(broker_url, backend_url, start_worker, ledger_path):
    """Start a worker of one of the two releases."""

    def start(app, name, **conf):
        return start_worker(
            *("-P", "threads", "-c", "2", "-n", f"{name}@here"),
            app=app,
            broker=broker_url,
            backend=backend_url,
            ledger=ledger_path,
            conf=conf,
        )

    return start


def letters(url):
    env = workers.app_environment(broker=url)
    return json.loads(workers.run_command("-A", "proj", "dlq", "list", "--json", env=env).stdout)


def parked(app):
    with closing(loader.make_transport(app.conf.settings)) as transport:
        return transport.parked([Queue(name="celery")])["celery"]


def test_nobody_has_it(broker_url, backend_url, client, release, ledger_path):
    """Two workers without it pass it on a few times; then it is a failure, and a letter that can be replayed."""
    conf = {"task_unknown_delay": 0.2, "task_unknown_retries": 3}
    old = [release(OLD, name, **conf) for name in ("one", "two")]
    app = client(broker_url, backend_url)
    results = {f"fresh{number}": app.send_task(FRESH, (f"fresh{number}",)) for number in range(20)}
    for result in results.values():
        with pytest.raises(NotRegistered, match=FRESH):
            result.get(timeout=40)
    wait_for(lambda: queues.waiting(broker_url, DLQ) == 20, 20, lambda: old[0].output[-3000:])
    assert queues.waiting(broker_url) == 0
    assert [worker.stop() for worker in old] == [0, 0]
    found = {(each["id"], each["task"], each["queue"], each["reason"], each["text"]) for each in letters(broker_url)}
    text = f"no task named '{FRESH}'; handed back 3 times"
    assert found == {(result.id, FRESH, "celery", "unregistered", text) for result in results.values()}
    for result in results.values():
        told = [line for worker in old for line in worker.lines(rf"unregistered task.*{re.escape(result.id)}")]
        assert sorted("ERROR" in line for line in told) == [False, True], told
    new = release(NEW, "new", **conf)
    env = workers.app_environment(broker=broker_url)
    assert workers.run_command("-A", "proj", "dlq", "replay", "--all", env=env).stdout == "Replayed 20 dead letters.\n"
    wait_for(lambda: ledger.read(ledger_path) == Counter(list(results)), 40, lambda: new.output[-3000:])


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_never_handed_back(broker_url, backend_url, client, release):
    worker = release(OLD, "old", task_unknown_retries=0)
    result = client(broker_url, backend_url).send_task(FRESH, ("one",))
    with pytest.raises(NotRegistered):
        result.get(timeout=20)
    [line] = worker.lines("Received unregistered task of type 'rollout.fresh'")
    assert "ERROR" in line
    wait_for(lambda: queues.waiting(broker_url, DLQ) == 1, 20, lambda: worker.output)


@pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
def test_revoked_while_it_is_handed_back(broker_url, backend_url, client, release):
    worker = release(OLD, "old", task_unknown_delay=0.2, task_unknown_retries=10_000)
    app = client(broker_url, backend_url)
    result = app.send_task(FRESH, ("one",))
    worker.wait_line("Received unregistered task", timeout=20)
    assert app.control.revoke(result.id, reply=True, timeout=20, limit=1)
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=20)
    worker.wait_line(rf"Discarding revoked task: rollout\.fresh\[{result.id}\]", timeout=20)
    assert worker.stop() == 0
    assert [queues.waiting(broker_url), parked(app), queues.waiting(broker_url, DLQ)] == [0, 0, 0]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_it_expires_while_it_is_handed_back(broker_url, backend_url, client, release):
    worker = release(OLD, "old", task_unknown_delay=0.2, task_unknown_retries=10_000)
    app = client(broker_url, backend_url)
    result = app.send_task(FRESH, ("one",), expires=1.5)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=20)
    assert worker.stop() == 0
    assert [queues.waiting(broker_url), parked(app), queues.waiting(broker_url, DLQ)] == [0, 0, 0]


@pytest.mark.parametrize("broker_url", ["redis", "sqlite"], indirect=True)
def test_one_for_later_is_not_given_up_before_its_time(broker_url, client, release):
    worker = release(OLD, "old", task_unknown_delay=0.1, task_unknown_retries=1, worker_eta_park_after=1)
    sent = time.time()
    client(broker_url).send_task(FRESH, ("one",), countdown=4)
    wait_for(lambda: queues.waiting(broker_url, DLQ) == 1, 30, lambda: worker.output)
    [letter] = letters(broker_url)
    assert datetime.fromisoformat(letter["time"]).timestamp() > sent + 4 - 1 - 0.1


@pytest.mark.parametrize("ending", ["stop", "kill"])
@pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
def test_what_a_worker_keeps_goes_back_with_it(ending, broker_url, client, release, ledger_path):
    """Where the broker cannot keep them until their time, the worker does, on loan."""
    # What is for a queue that may be gone by then RabbitMQ does not park.
    passing = {"task_queues": {"celery": {"durable": False}}}
    old = release(OLD, "old", task_unknown_delay=600, **passing)
    app = client(broker_url, **passing)
    for number in range(20):
        app.send_task(FRESH, (number,))
    wait_for(lambda: len(old.lines("Received unregistered task")) == 20, 40, lambda: old.output[-3000:])
    wait_for(lambda: queues.waiting(broker_url) == 0, 20, "the copies to be taken in again")
    app.send_task("rollout.common", ("other",))
    wait_for(lambda: ledger.read(ledger_path) == Counter(["other"]), 20, lambda: old.output[-3000:])
    getattr(old, ending)()
    new = release(NEW, "new", **passing)
    everything = Counter(["other", *map(str, range(20))])
    wait_for(lambda: ledger.read(ledger_path) == everything, 40, lambda: new.output[-3000:])


@pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
def test_held_messages_make_room_at_once(broker_url, client, release, ledger_path):
    """Held messages that fill the limit, after a batch that was passed on whole, keep nothing from what follows."""
    passing = {"task_queues": {"celery": {"durable": False}}, "broker_heartbeat": 0}
    app = client(broker_url, **passing)
    mark = {HANDED_BACK: {"times": 1, "until": time.time() + 500}}
    for headers in (None, None, mark, mark):
        app.send_task(FRESH, ("later",), headers=headers)
    app.send_task("rollout.common", ("other",))
    old = release(OLD, "old", task_unknown_delay=600, **passing)
    wait_for(lambda: ledger.read(ledger_path) == Counter(["other"]), 30, lambda: old.output[-3000:])
