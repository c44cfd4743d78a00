"""Orphans by themselves: what is remembered of tasks whose connection is lost, and what is not held on to."""

from __future__ import annotations

import gc
import weakref

import pytest

from framework import App
from framework.api.transport import Delivery, Queue
from framework.message import Outgoing, read_head
from framework.worker.dispatch.redelivery import FinishedTask, Redelivery
from framework.worker.task_request import TaskRequest
from framework_transports.memory import MemoryTransport

QUEUE = Queue(name="q")


class Bench:
    """A worker's tasks, and the transport, which takes back what was on loan as RabbitMQ does."""

    def __init__(self, *ids: str) -> None:
        app = App("orphans")

        @app.task(name="t")
        def task() -> None: ...

        self._policy = task.policy
        self.transport = MemoryTransport(f"memory://orphans-{id(self)}", None, {})
        self.items: list[TaskRequest] = []
        self.redelivery = Redelivery(lambda: self.items)
        self.consumer = self.connect()
        headers = [{"task": "t", "id": task_id} for task_id in ids]
        self.transport.producer().publish([Outgoing(b"", headers=each, routing_key="q") for each in headers])
        for number, delivery in enumerate(self.consumer.fetch(len(ids))):
            head = read_head(delivery.payload)
            self.items.append(TaskRequest(number, delivery, head, "t", str(head.headers.id), self._policy))

    def connect(self):
        """Make the next connection, which is given what the last one had."""
        consumer = self.transport.consumer()
        self.redelivery.adopt(consumer)
        consumer.add_queue(QUEUE)
        return consumer

    def lose(self) -> None:
        """Lose the connection, and get another one."""
        lost, self.consumer = self.consumer, None
        self.redelivery.leave(lost)
        del lost
        self.consumer = self.connect()

    def come_back(self) -> dict[str, bool]:
        """Fetch what is there; say of each whether it is known."""
        found = {}
        for delivery in self.consumer.fetch(100):
            head = read_head(delivery.payload)
            found[str(head.headers.id)] = self.redelivery.recognises(delivery, head, str(head.headers.id))
        return found


def test_a_task_that_runs_gets_the_new_delivery():
    bench = Bench("runs")
    bench.lose()
    assert bench.come_back() == {"runs": True}
    [item] = bench.items
    item.acknowledge()
    bench.consumer.flush()
    assert bench.transport.sizes([QUEUE]) == {"q": 0}
    assert not bench.redelivery.tasks
    bench.lose()
    assert bench.come_back() == {}


@pytest.mark.parametrize("early", [True, False], ids=["early", "late"])
def test_what_was_acknowledged_is_acknowledged_when_it_comes_again(early):
    bench = Bench("done")
    [item] = bench.items
    if early:
        # Noted, and not sent when the connection goes.
        item.acknowledged = True
    bench.lose()
    if not early:
        item.acknowledge()
    bench.items.clear()
    assert bench.come_back() == {"done": True}
    bench.lose()
    assert bench.come_back() == {}


def test_what_was_given_back_runs_again():
    bench = Bench("back", "released")
    bench.lose()
    bench.items[0].delivery.reject(requeue=True)
    bench.items[1].delivery.release()
    bench.items.clear()
    assert not bench.redelivery.tasks
    assert bench.come_back() == {"back": False, "released": False}


def test_neither_the_lost_connection_nor_the_task_is_held_on_to():
    bench = Bench("early", "late", "runs")
    lost = weakref.ref(bench.consumer)
    early, late, runs = bench.items
    early.acknowledged = True
    bench.lose()
    late.acknowledge()
    # As if others had got all of them.
    orphans = bench.redelivery.tasks
    assert {task_id: type(orphan) for task_id, orphan in orphans.items()} == {
        "early": FinishedTask,
        "late": FinishedTask,
        "runs": TaskRequest,
    }
    runs.acknowledge()
    assert {type(orphan) for orphan in orphans.values()} == {FinishedTask}
    # Though the tasks are still there.
    gc.collect()
    assert lost() is None


def test_what_becomes_of_a_task_is_told_where_it_came_from():
    """RabbitMQ does not count: the transport does, also of what its connection's end has given back."""
    bench = Bench("tried")
    [item] = bench.items
    told = []

    class Counting(Delivery):
        payload, queue, deliveries = item.delivery.payload, "q", 0

        def ack(self) -> None:
            told.append("ack")

        def reject(self, *, requeue: bool) -> None:
            told.append("back" if requeue else "dropped")

    item.delivery = Counting()
    bench.lose()
    item.delivery.reject(requeue=True)
    assert told == ["back"]


def test_what_is_long_over_is_forgotten(monkeypatch):
    bench = Bench("old", "runs")
    bench.items[0].acknowledged = True
    bench.lose()
    del bench.items[0]
    monkeypatch.setattr("framework.worker.dispatch.redelivery._FINISHED_MAX", -1.0)
    bench.lose()
    assert set(bench.redelivery.tasks) == {"runs"}
