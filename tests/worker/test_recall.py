"""Recalls by themselves: what is asked for, when, and what becomes of what comes."""

from __future__ import annotations

import pytest

from framework._boot.loop import EventLoop
from framework.api.transport import Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing, read_head
from framework.worker.dispatch.recall import Recall
from framework.worker.dispatch.revoked import Revokes
from framework_transports.memory import MemoryTransport

QUEUE = Queue(name="q")


class Bench:
    """A loop, a consumer that has messages parked, and what is said of it."""

    def __init__(self, count: int) -> None:
        transport = MemoryTransport(f"memory://recalls-{id(self)}", None, {})
        self.ids = [f"id{number}" for number in range(count)]
        self.consumer = transport.consumer()
        self.consumer.add_queue(QUEUE)
        producer = transport.producer()
        producer.publish([Outgoing(b"", headers={"task": "t", "id": task_id}, routing_key="q") for task_id in self.ids])
        for delivery in self.consumer.fetch(count):
            delivery.park(1e12, read_head(delivery.payload).headers.id)
        self.consumer.flush()
        self.asked: list[int] = []
        self.came: list[str] = []
        #: How many came with each call.
        self.taken: list[int] = []
        self.lost: list[Exception] = []
        #: Taking in what comes turns out that the connection is lost.
        self.broken = False
        self.loop = EventLoop()
        recall = self.consumer.recall

        def counted(keys):
            self.asked.append(len(keys))
            return recall(keys)

        self.consumer.recall = counted
        self.recalls = Recall(self.loop, self.consumer, self._take, self.lost.append)

    def _take(self, deliveries) -> None:
        if self.broken:
            raise ConnectionLost("while it was decided what becomes of them")
        self.taken.append(len(deliveries))
        self.came += [read_head(delivery.payload).headers.id for delivery in deliveries]

    def turn(self) -> None:
        """Have the loop turn more often than anything here takes."""
        left = 20

        def count() -> None:
            nonlocal left
            left -= 1
            self.loop.call_soon(count if left else self.loop.stop)

        count()
        self.loop.run()

    def close(self) -> None:
        self.consumer.close(requeue=False)
        self.loop.close()


@pytest.fixture
def bench():
    made = Bench(1000)
    yield made
    made.close()


def test_what_is_wanted_comes(bench):
    bench.recalls.request(["id7", "none", "id3"])
    assert bench.asked == [], "the caller was made to wait"
    bench.recalls.request(["id7", "id5"])
    bench.turn()
    assert sorted(bench.came) == ["id3", "id5", "id7"]
    assert bench.asked == [4], "one question for all of one turn"
    bench.recalls.request([])
    bench.turn()
    assert bench.asked == [4]


def test_many_are_asked_for_in_turns(bench):
    turns: list[int] = []

    def look() -> None:
        turns.append(len(bench.came))
        if len(bench.came) < 1000:
            bench.loop.call_soon(look)

    bench.recalls.request(bench.ids)
    bench.loop.call_soon(look)
    bench.turn()
    assert sorted(bench.came) == sorted(bench.ids)
    assert max(bench.asked) <= 300
    assert len(set(turns)) == len(bench.asked), "the loop did not turn in between"


def test_the_worker_fetches_after_each_request(bench):
    """A wake-up may have been read with the reply, and tasks run while a great revoke is worked off."""
    bench.recalls.request([f"none{number}" for number in range(600)])
    bench.turn()
    assert bench.taken == [0, 0, 0]


def test_what_is_no_text_is_nobodys(bench):
    bench.recalls.request(["\ud800", "id1"])
    bench.turn()
    assert bench.came == ["id1"]


def test_a_lost_connection_is_told_and_asked_no_more(bench):
    bench.consumer.close(requeue=False)
    bench.recalls.request(bench.ids)
    bench.turn()
    [error] = bench.lost
    assert isinstance(error, ConnectionLost)
    assert len(bench.asked) == 1


def test_a_connection_that_is_lost_over_what_came_is_told_too(bench):
    bench.broken = True
    bench.recalls.request(bench.ids)
    bench.turn()
    assert (len(bench.lost), len(bench.asked), bench.came) == (1, 1, [])


def test_nothing_is_asked_once_it_is_closed(bench):
    bench.recalls.request(["id1"])
    bench.recalls.close()
    bench.turn()
    bench.recalls.request(["id2"])
    bench.turn()
    assert bench.asked == []


def test_revokes_tell_what_came_in():
    revokes = Revokes()
    told: list[list[str]] = []
    revokes.add(["before"])
    revokes.on_added = told.append
    revokes.add(iter(["a", "b"]))
    # Said again it may be parked again; what another worker tells again is no news.
    revokes.add(["a"])
    revokes.merge(["a", "c"])
    revokes.remove(["a"])
    assert told == [["a", "b"], ["a"], ["c"]]
