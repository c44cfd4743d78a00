"""What has succeeded and comes again: what is remembered, what the result store tells, and what runs all the same."""

from __future__ import annotations

import threading

import pytest

from framework import App
from framework.api.result_store import Record, ResultStoreTraits
from framework.api.transport import Delivery
from framework.client.request import Context
from framework.exceptions import ConnectionLost
from framework.message import mark_redelivered, read, read_head
from framework.wire.result_document import FAILURE, RETRY, SUCCESS, Documents
from framework.worker.dispatch.deduplication import Deduplication
from framework.worker.task_request import TaskRequest
from support import queues

MEMBER = b'[[], {}, {"chord": {"task": "body", "args": [], "kwargs": {}, "options": {}, "subtask_type": null}}]'


class Lent(Delivery):
    """A message on loan that tells whether it was acknowledged."""

    __slots__ = ("acknowledged",)

    def __init__(self, payload: bytes, deliveries: int) -> None:
        self.payload = payload
        self.queue = "celery"
        self.deliveries = deliveries
        self.acknowledged = False

    def ack(self) -> None:
        self.acknowledged = True

    def reject(self, *, requeue: bool) -> None:
        raise AssertionError("neither runs nor is acknowledged")


class Bench:
    """What remembers, before a result store in a file."""

    def __init__(self, directory, **settings) -> None:
        self.app = App("again", broker="memory://successes", backend=f"sqlite:///{directory}/results.db")
        self.app.conf.update(settings)
        self.policies = {
            late: self.app.task(name="late" if late else "early", acks_late=late)(lambda: None).policy
            for late in (True, False)
        }
        self.store = self.app.result_store
        self.changes = 0
        self.successes = self.make()

    def make(self) -> Deduplication:
        return Deduplication(
            self.app.conf.settings,
            self.store,
            lambda payload: Context.from_incoming(read(payload), self.app),
            self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def item(self, task_id, retries=0, *, again=True, late=True, body=b"[[], {}, {}]") -> TaskRequest:
        payload = queues.envelope(body, {"task": "late", "id": task_id, "retries": retries})
        delivery = Lent(mark_redelivered(payload, 1) if again else payload, int(again))
        return TaskRequest(1, delivery, read_head(delivery.payload), "late", task_id, self.policies[late])

    def keep(self, task_id, state=SUCCESS, *, documents=None, extended=None) -> None:
        result = ValueError("no") if state == FAILURE else 1
        document = (documents or Documents()).build(state, result, task_id, extended=extended)
        self.store.store([Record(task_id, document, state)])

    def skips(self, *args, **kwargs) -> bool:
        item = self.item(*args, **kwargs)
        told = self.changes
        skipped = self.successes.skips(item)
        assert item.acknowledged is item.delivery.acknowledged is skipped
        assert self.changes - told == skipped
        return skipped


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.app.close()


def test_what_has_succeeded_here_is_acknowledged_when_it_comes_again(bench):
    bench.successes.add(bench.item("one"))
    assert bench.skips("one")
    assert not bench.skips("one", again=False)
    assert not bench.skips("one", late=False)
    assert not bench.skips("other")


def test_a_retry_is_another_message(bench):
    bench.successes.add(bench.item("one", 1))
    assert bench.skips("one", 0)
    assert bench.skips("one", 1)
    assert not bench.skips("one", 2)


def test_only_the_latest_are_remembered(tmp_path):
    bench = Bench(tmp_path, worker_successful_max=2)
    for task_id in ("one", "two", "one", "three"):
        bench.successes.add(bench.item(task_id))
    assert [bench.skips(task_id) for task_id in ("one", "two", "three")] == [True, False, True]
    assert len(bench.successes) == 2


def test_what_is_too_old_is_forgotten(tmp_path, monkeypatch):
    bench = Bench(tmp_path, worker_successful_expires=60)
    bench.successes.add(bench.item("one"))
    assert bench.skips("one")
    bench.successes._expires = 0.0
    assert not bench.skips("one")
    bench.successes.add(bench.item("two"))
    assert len(bench.successes) == 0


def test_the_store_tells_what_has_succeeded_elsewhere(bench):
    bench.keep("done")
    bench.keep("failed", FAILURE)
    bench.keep("retried", RETRY)
    assert [bench.skips(task_id) for task_id in ("done", "failed", "retried", "none")] == [True, False, False, False]
    assert not bench.skips("done", again=False)


def test_of_a_retry_the_store_tells_if_its_documents_do(bench):
    bench.keep("plain")
    bench.keep("extended", extended={"retries": 1})
    assert not bench.skips("plain", 1)
    assert [bench.skips("extended", retries) for retries in range(3)] == [True, True, False]


def test_a_member_of_a_chord_may_have_died_before_it_was_counted(bench):
    bench.keep("member")
    assert not bench.skips("member", body=MEMBER)
    # Here it was counted before it ended.
    bench.successes.add(bench.item("member"))
    assert bench.skips("member", body=MEMBER)


def test_what_is_stored_and_not_accepted_is_not_read(bench, caplog):
    bench.keep("pickled", documents=Documents("pickle"))
    assert not bench.skips("pickled")
    assert "cannot be read, so the redelivered task runs again" in caplog.text


def test_a_store_that_is_away_is_not_asked_again_at_once(bench, caplog, monkeypatch):
    asked = []

    def fetch(task_ids):
        asked.extend(task_ids)
        raise ConnectionLost("the store is away")

    monkeypatch.setattr(bench.store, "fetch", fetch)
    assert not bench.skips("one")
    assert not bench.skips("two")
    assert asked == ["one"]
    assert caplog.text.count("the store is away") == 1
    # What is remembered needs no store.
    bench.successes.add(bench.item("three"))
    assert bench.skips("three")
    monkeypatch.setattr("framework.worker.dispatch.deduplication._PAUSE", 0.0)
    bench.successes._ask_at = 0.0
    bench.skips("four")
    bench.skips("five")
    assert asked == ["one", "four", "five"]


def test_a_store_that_does_not_answer_is_not_waited_for(bench, caplog, monkeypatch):
    answers, asked = threading.Event(), []

    def fetch(task_ids):
        asked.extend(task_ids)
        answers.wait(60)
        return {}

    monkeypatch.setattr(bench.store, "fetch", fetch)
    monkeypatch.setattr("framework.worker.dispatch.deduplication._FETCH_TIMEOUT", 0.01)
    monkeypatch.setattr("framework.worker.dispatch.deduplication._PAUSE", 0.0)
    assert not bench.skips("one")
    # The first one still asks.
    assert not bench.skips("two")
    assert asked == ["one"]
    assert "no answer within 0.01 s" in caplog.text
    answers.set()
    bench.successes._fetching.join(20)
    assert not bench.skips("three")
    assert asked == ["one", "three"]
    bench.successes._fetching.join(20)


def test_a_store_that_only_the_client_can_read_is_not_asked(bench, monkeypatch):
    monkeypatch.setattr(type(bench.store), "traits", ResultStoreTraits(shared=False))
    bench.successes = bench.make()
    bench.keep("done")
    assert not bench.skips("done")
