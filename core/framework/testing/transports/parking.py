"""Promise 7: a parked message is delivered at its time, whichever consumers end until then, or when it is recalled."""

from __future__ import annotations

import time
from typing import Final

import pytest

from framework.api.transport import Consumer, Delivery, Queue
from framework.message import read, read_head
from framework.testing.transports.base import Bench, TransportSuiteBase, ids, needs, numbers
from framework.testing.wait import wait_for

#: Seconds for which tests park messages: long enough to check them in time on a slow machine.
_SHORT: Final = 1.5
#: Seconds for which tests park messages that must not come due.
_LONG: Final = 3600.0


class ParkingPromises(TransportSuiteBase):
    """Tests of parking and recalling."""

    def _park(self, bench: Bench, consumer: Consumer, count: int, until: float) -> None:
        for delivery in bench.gather(consumer, count):
            assert delivery.park(until), "`park` returned False"
        consumer.flush()

    def _parked_become(self, bench: Bench, consumer: Consumer | None, wanted: dict[str, int]) -> None:
        """Wait until the queues have the `wanted` numbers of parked messages; a broker may report them late."""
        transport = bench.another()

        def parked() -> dict[str, int]:
            if consumer is not None:
                consumer.flush()
            return transport.parked([Queue(name=name) for name in wanted])

        wait_for(lambda: parked() == wanted, self.patience, lambda: f"{wanted} to be parked; there are {parked()}")

    def _wait_for_due_at(self, bench: Bench, consumer: Consumer, sooner: float, other: Consumer) -> None:
        """Wait until `due_at` of `consumer` is less than `sooner` seconds ahead; send heartbeats for `other`."""

        def due() -> bool:
            other.heartbeat()
            if not bench.readable(consumer, 0.2):
                consumer.heartbeat()
                return False
            assert consumer.fetch(10) == []
            return consumer.due_at is not None and consumer.due_at < time.monotonic() + sooner

        wait_for(due, self.patience, lambda: f"the consumer to update `due_at`, which is {consumer.due_at}")

    def _at_its_time(self, bench: Bench, consumer: Consumer) -> list[Delivery]:
        """Fetch at `due_at`, or when the descriptor is readable if the broker pushes, as core does."""
        found: list[Delivery] = []
        deadline = time.monotonic() + self.patience + _SHORT
        while not found:
            assert time.monotonic() < deadline, "no message was delivered at `due_at`"
            if consumer.due_at is not None:
                time.sleep(min(max(0.0, consumer.due_at - time.monotonic()), _SHORT) + 0.001)
            else:
                readable = bench.readable(consumer, _SHORT + self.patience)
                assert readable, "a message is parked, but `due_at` is None and the descriptor is not readable"
            found += consumer.fetch(10)
        return found

    def _wait_until(self, moment: float) -> None:
        # The broker's clock may differ by up to a tenth of a second.
        wait_for(lambda: time.time() > moment + 0.1, _SHORT + self.patience, "their time to come")

    @needs("parks")
    def test_what_is_parked_can_be_looked_at(self, bench: Bench) -> None:
        """`peek` shows parked messages, the nearest first, and leaves them; None if the broker cannot."""
        queue = bench.filled(3)
        consumer = bench.consumer(queue)
        now = time.time()
        for number, delivery in enumerate(bench.gather(consumer, 3)):
            assert delivery.park(now + 3600 - number), "`park` returned False"
        self._parked_become(bench, consumer, {queue.name: 3})
        transport = bench.another()
        for _ in range(2):
            found = transport.peek(queue, 2, parked=True)
            if found is None:
                return
            assert [round(peeked.due or 0.0) for peeked in found] == [round(now + 3600 - number) for number in (2, 1)]
            assert all(read(peeked.payload).body for peeked in found)
        assert transport.parked([queue]) == {queue.name: 3}
        assert not transport.peek(bench.queue(), 2, parked=True)

    @needs("parks")
    def test_what_is_parked_comes_at_its_time(self, bench: Bench) -> None:
        """A parked message is delivered at its time, not counted as a redelivery, and removed when acknowledged."""
        queue = bench.filled(1)
        consumer = bench.consumer(queue)
        until = time.time() + _SHORT
        self._park(bench, consumer, 1, until)
        assert consumer.fetch(10) == []
        [delivery] = self._at_its_time(bench, consumer)
        # Clocks of two machines may differ a little.
        assert time.time() > until - 0.1
        assert (ids([delivery]), delivery.deliveries) == (["0"], 0)
        assert not read_head(delivery.payload).headers.deliveries
        delivery.ack()
        consumer.flush()
        consumer.close(requeue=True)
        assert bench.drain(bench.consumer(queue), queue) == []

    @needs("parks")
    def test_the_time_is_named(self, bench: Bench) -> None:
        """`due_at` is None while no message is parked, else the time of the message that is due first."""
        queue = bench.filled(2)
        consumer = bench.consumer(queue)
        first, second = bench.gather(consumer, 2)
        assert consumer.fetch(1) == []
        named = [consumer.due_at]
        for delivery, ahead in ((first, _LONG), (second, _LONG / 2)):
            delivery.park(time.time() + ahead)
            assert consumer.fetch(10) == []
            named.append(consumer.due_at)
        times = [time.monotonic() + ahead for ahead in (_LONG, _LONG / 2)]
        assert named == [None, *(pytest.approx(moment, abs=self.patience) for moment in times)]

    @needs("parks")
    def test_what_is_parked_outlives_its_consumer(self, bench: Bench) -> None:
        """A parked message stays parked when its consumer is closed, with or without requeueing."""
        queue = bench.filled(3)
        for number in range(3):
            consumer = bench.consumer(queue)
            self._park(bench, consumer, 1, time.time() + (_LONG if number else _SHORT))
            consumer.close(requeue=number == 0)
        last = bench.consumer(queue)
        assert last.fetch(10) == []
        assert ids(self._at_its_time(bench, last)) == ["0"]
        self._parked_become(bench, None, {queue.name: 2})

    @needs("parks")
    def test_others_learn_of_it(self, bench: Bench) -> None:
        """A waiting consumer updates `due_at` when another one parks a message, and gets the message at its time."""
        queue = bench.filled(2)
        one = bench.consumer(queue)
        first, second = bench.gather(one, 2)
        two = bench.consumer(queue)
        assert two.fetch(10) == []
        first.park(time.time() + _LONG)
        one.flush()
        self._wait_for_due_at(bench, two, 2 * _LONG, one)
        wanted = ids([second])
        second.park(time.time() + _SHORT)
        one.flush()
        self._wait_for_due_at(bench, two, _LONG / 2, one)
        one.close(requeue=False)
        assert ids(self._at_its_time(bench, two)) == wanted

    @needs("parks")
    def test_many_are_parked_and_each_comes_once(self, bench: Bench) -> None:
        """Two consumers get each of many parked messages once; identical messages are not merged."""
        count = min(self.many, 1_200) // 4 * 4
        queue = bench.queue()
        producer = bench.producer()
        producer.declare([queue])
        producer.publish([bench.message(number // 2, queue) for number in range(count)])
        one = bench.consumer(queue)
        until = time.time() + _SHORT
        for _ in range(4):
            self._park(bench, one, count // 4, until)
        two = bench.consumer(queue)
        self._wait_until(until)
        found: list[Delivery] = []

        def all_delivered() -> bool:
            found.extend([*one.fetch(100), *two.fetch(100)])
            return len(found) >= count

        wait_for(all_delivered, self.patience, lambda: f"{count} deliveries, got {len(found)}")
        assert sorted(ids(found), key=int) == [number for number in numbers(count // 2) for _ in "ab"]
        self._parked_become(bench, None, {queue.name: 0})

    @needs("parks")
    def test_it_is_looked_at_and_purged(self, bench: Bench) -> None:
        """`parked` counts parked messages by queue, `sizes` does not count them, and `purge` drops them."""
        queue, other = bench.filled(4), bench.filled(1)
        consumer = bench.consumer()
        consumer.prefetch(3)
        consumer.add_queue(queue)
        held = bench.gather(consumer, 3)
        # A prefetch limit of 1: no further message is fetched when these are parked.
        consumer.prefetch(1)
        for delivery in held[:2]:
            delivery.park(time.time() + _LONG)
        self._parked_become(bench, consumer, {queue.name: 2, other.name: 0})
        bench.size_becomes(queue, 1)
        assert bench.transport.purge(queue) == 3
        assert bench.transport.parked([queue]) == {queue.name: 0}
        assert bench.transport.sizes([queue]) == {queue.name: 0}
        assert bench.transport.purge(Queue(name=bench.new())) == 0

    @needs("parks")
    def test_parking_settles(self, bench: Bench) -> None:
        """Parking settles a delivery with the next `fetch`; a later settlement or `close` has no effect."""
        queue = bench.filled(2)
        consumer = bench.consumer(queue)
        first, second = bench.gather(consumer, 2)
        first.park(time.time() + _LONG)
        assert consumer.fetch(10) == []
        first.reject(requeue=True)
        second.park(time.time() + _LONG)
        consumer.close(requeue=True)
        assert bench.drain(bench.consumer(queue), queue) == []
        self._parked_become(bench, None, {queue.name: 2})

    @needs("parks")
    def test_it_keeps_its_priority(self, bench: Bench) -> None:
        """Two parked messages that are due at the same time are delivered by priority."""
        queue = bench.queue(max_priority=10)
        producer = bench.producer()
        producer.declare([queue])
        producer.publish([bench.message(priority, queue, priority=priority) for priority in (0, 9)])
        consumer = bench.consumer(queue)
        wanted = ids(found := bench.gather(consumer, 2))
        until = time.time() + _SHORT / 3
        for delivery in reversed(found):
            delivery.park(until)
        consumer.flush()
        self._wait_until(until)
        assert ids(bench.gather(consumer, 2)) == wanted

    # ------------------------------------------------------------ recalling

    def _keyed(self, bench: Bench, consumer: Consumer, *keys: str, ahead: float = _LONG) -> None:
        """Park the next messages under `keys`, in that order."""
        for delivery, key in zip(bench.gather(consumer, len(keys)), keys, strict=True):
            assert delivery.park(time.time() + ahead, key), "`park` returned False"
        consumer.flush()

    @needs("recalls")
    def test_what_is_recalled_comes_at_once(self, bench: Bench) -> None:
        """`recall` returns the messages parked under the keys, once, and does not count them as redelivered."""
        queue = bench.filled(5)
        one, two = bench.consumer(queue), bench.consumer(queue)
        self._keyed(bench, one, "a", "b\nc", "d e", "é", "")
        assert ids(two.recall(["none", "", *(f"other{number}" for number in range(300))])) == []
        found = [*two.recall(["none", "d e", "a"])]
        assert sorted(ids(found)) == ["0", "2"]
        assert [delivery.deliveries for delivery in found] == [0, 0]
        assert {delivery.queue for delivery in found} == {queue.name}
        assert [*one.recall(["a"]), *two.recall(["a"])] == []
        assert ids(one.recall(["é"])) == ["3"]
        for delivery in found:
            delivery.ack()
        two.flush()
        assert bench.another().parked([queue]) == {queue.name: 2}

    @needs("recalls")
    def test_what_is_recalled_is_on_loan(self, bench: Bench) -> None:
        """A recalled message can be released or parked again, and is requeued if its consumer closes."""
        queue = bench.filled(3)
        one = bench.consumer(queue)
        self._keyed(bench, one, "a", "b", "c")
        first, second, _third = sorted(one.recall(["a", "b", "c"]), key=lambda delivery: ids([delivery]))
        first.release()
        second.park(time.time() + _LONG, "b")
        assert ids(bench.gather(one, 1)) == ["0"]
        assert bench.another().parked([queue]) == {queue.name: 1}
        one.close(requeue=True)
        two = bench.consumer(queue)
        assert sorted(ids(bench.gather(two, 2))) == ["0", "2"]
        assert ids(two.recall(["a", "b", "c"])) == ["1"]

    @needs("recalls")
    def test_all_of_a_key_are_recalled(self, bench: Bench) -> None:
        """`recall` returns all messages with a key that are still parked, and no others."""
        queue = bench.filled(6)
        consumer = bench.consumer(queue)
        first = bench.gather(consumer, 1)[0]
        first.park(time.time() + _SHORT, "same")
        self._keyed(bench, consumer, "same", "same", "other", "same", "same")
        assert consumer.fetch(10) == []
        [at_its_time] = self._at_its_time(bench, consumer)
        assert ids([at_its_time]) == ["0"]
        assert sorted(ids(consumer.recall(["same"]))) == ["1", "2", "4", "5"]
        assert bench.another().parked([queue]) == {queue.name: 1}

    @needs("recalls")
    def test_recalling_settles(self, bench: Bench) -> None:
        """`recall` first sends the consumer's pending settlements, including parked messages."""
        queue = bench.filled(3)
        consumer = bench.consumer(queue)
        first, second, third = bench.gather(consumer, 3)
        first.park(time.time() + _LONG, "a")
        second.park(time.time() + _LONG, "b")
        third.ack()
        assert ids(consumer.recall(["a"])) == ["0"]
        assert bench.another().parked([queue]) == {queue.name: 1}
        assert consumer.recall([]) == []

    @needs("recalls")
    def test_recalling_is_for_the_queues_that_are_consumed(self, bench: Bench) -> None:
        """`recall` covers all queues that the consumer consumes, but no cancelled queues."""
        queue, other, cancelled = bench.filled(1), bench.filled(1), bench.filled(1)
        for each in (queue, other, cancelled):
            self._keyed(bench, bench.consumer(each), "same")
        both = bench.consumer(queue, cancelled, other)
        both.cancel_queue(cancelled.name)
        assert sorted(delivery.queue for delivery in both.recall(["same"])) == sorted((queue.name, other.name))
        both.cancel_queue(queue.name)
        both.cancel_queue(other.name)
        assert both.recall(["same"]) == []
        assert bench.another().parked([queue, other, cancelled]) == {queue.name: 0, other.name: 0, cancelled.name: 1}

    @needs("recalls")
    def test_recalling_keeps_it_awake(self, bench: Bench) -> None:
        """After `recall`, new messages still wake the consumer, and `due_at` covers the remaining parked messages."""
        queue = bench.filled(2)
        consumer = bench.consumer(queue)
        self._keyed(bench, consumer, "a", "b", ahead=_LONG)
        assert consumer.fetch(10) == []
        for key in ("none", "a"):
            consumer.recall([key])
            bench.producer().publish([bench.message(f"after {key}", queue)])
            assert bench.readable(consumer, self.patience), "the descriptor did not become readable"
            assert ids(bench.gather(consumer, 1)) == [f"after {key}"]
            assert consumer.fetch(10) == []
        assert consumer.due_at is not None
