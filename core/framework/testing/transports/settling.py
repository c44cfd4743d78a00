"""Promises 2 and 4: a delivery is settled once, or its message is redelivered, even if its consumer dies."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from framework.message import read_head
from framework.testing.transports.base import Bench, TransportSuiteBase, ids, needs, numbers


class SettlingPromises(TransportSuiteBase):
    """Tests of settling deliveries, and of queues."""

    def test_what_is_acknowledged_is_gone(self, bench: Bench) -> None:
        """An acknowledged message is not redelivered, not even when its consumer closes with requeueing."""
        queue = bench.filled(4)
        consumer = bench.consumer(queue)
        for delivery in bench.gather(consumer, 4):
            delivery.ack()
        consumer.flush()
        consumer.close(requeue=True)
        assert bench.drain(bench.consumer(queue), queue) == []

    def test_settlements_are_sent_with_the_next_fetch(self, bench: Bench) -> None:
        """`fetch` sends pending settlements first, so that no `flush` is needed."""
        queue = bench.filled(2)
        consumer = bench.consumer(queue)
        for delivery in bench.gather(consumer, 2):
            delivery.reject(requeue=True)
        assert sorted(ids(bench.gather(consumer, 2))) == ["0", "1"]

    def test_each_settlement_does_what_it_says(self, bench: Bench) -> None:
        """Requeued and released messages are redelivered; acknowledged and dropped ones are not."""
        queue = bench.filled(4)
        consumer = bench.consumer(queue)
        done, dropped, returned, released = bench.gather(consumer, 4)
        again = sorted(ids([returned, released]))
        done.ack()
        dropped.reject(requeue=False)
        returned.reject(requeue=True)
        released.release()
        consumer.flush()
        found = bench.drain(consumer, queue)
        assert sorted(ids(found)) == again

    def test_a_delivery_is_settled_once(self, bench: Bench) -> None:
        """A second settlement of a delivery has no effect."""
        queue = bench.filled(2)
        consumer = bench.consumer(queue)
        acked, dropped = bench.gather(consumer, 2)
        acked.ack()
        acked.reject(requeue=True)
        dropped.reject(requeue=False)
        dropped.ack()
        consumer.flush()
        assert bench.drain(consumer, queue) == []

    def test_what_is_given_back_comes_first(self, bench: Bench) -> None:
        """A requeued message is delivered before the messages behind it.

        The queue is cancelled meanwhile, because a broker may deliver the next message before it requeues this one.
        """
        queue = bench.filled(5)
        consumer = bench.consumer()
        consumer.prefetch(1)
        consumer.add_queue(queue)
        [first] = bench.gather(consumer, 1)
        consumer.cancel_queue(queue.name)
        first.reject(requeue=True)
        consumer.flush()
        consumer.prefetch(10)
        consumer.add_queue(queue)
        assert ids(bench.gather(consumer, 5))[0] == "0"

    def test_deliveries_are_counted(self, bench: Bench) -> None:
        """The delivery and the message's headers have the number of earlier deliveries."""
        queue = bench.filled(1)
        consumer = bench.consumer(queue)
        for count in range(3):
            [delivery] = bench.gather(consumer, 1)
            assert delivery.deliveries == count
            assert (read_head(delivery.payload).headers.deliveries or 0) == count
            delivery.reject(requeue=True)

    def test_what_is_on_loan_is_nobody_elses(self, bench: Bench) -> None:
        """Another consumer does not get unacknowledged messages until they are requeued."""
        queue = bench.filled(3)
        one = bench.consumer()
        one.prefetch(2)
        one.add_queue(queue)
        held = bench.gather(one, 2)
        two = bench.consumer(queue)
        rest = ids(bench.drain(two, queue))
        assert sorted(ids(held) + rest) == ["0", "1", "2"]
        given_back = sorted(ids(held))
        for delivery in held:
            delivery.reject(requeue=True)
        one.close(requeue=True)
        assert sorted(ids(bench.gather(two, 2))) == given_back

    def test_closing_gives_back_what_is_on_loan(self, bench: Bench) -> None:
        """Closing with requeueing returns unacknowledged messages to the queue; settled ones stay settled."""
        queue = bench.filled(4)
        consumer = bench.consumer(queue)
        done, *others = bench.gather(consumer, 4)
        wanted = sorted(ids(others))
        done.ack()
        consumer.close(requeue=True)
        consumer.close(requeue=True)
        found = bench.gather(bench.consumer(queue), 3)
        assert sorted(ids(found)) == wanted

    def test_what_is_adopted_stays_on_loan(self, bench: Bench) -> None:
        """A new consumer adopts deliveries of a lost connection; the other deliveries are redelivered once."""
        queue = bench.filled(6)
        lost = bench.consumer(queue)
        first, second, done, *_others = bench.gather(lost, 6)
        wanted = {delivery: ids([delivery])[0] for delivery in (first, second)}
        settled = ids([done])[0]
        done.ack()
        consumer = bench.transport.consumer()
        bench.opened.callback(consumer.close, requeue=False)
        consumer.prefetch(10_000)
        adopted = {wanted[delivery]: delivery for delivery in consumer.adopt(lost, list(wanted))}
        lost.close(requeue=False)
        consumer.add_queue(queue)
        expected = sorted({*numbers(6)} - {settled} - {*adopted})
        found = bench.gather(consumer, len(expected))
        assert sorted(ids(found)) == expected
        consumer.heartbeat()
        for delivery in [*found, *adopted.values()]:
            delivery.ack()
        consumer.flush()
        consumer.close(requeue=True)
        assert bench.drain(bench.consumer(queue), queue) == []

    @needs("shared")
    def test_what_a_killed_process_had_comes_back(self, bench: Bench) -> None:
        """The messages of a killed process are redelivered to another consumer, once."""
        queue = bench.filled(10)
        with self._taker(bench, queue.name, 6) as taker:
            assert taker.stdout is not None
            taken = json.loads(taker.stdout.readline())
            assert len(taken) == 6
            taker.kill()
        consumer = bench.consumer(queue)
        found = bench.gather(consumer, 10)
        assert sorted(ids(found), key=int) == numbers(10)
        for delivery in found:
            delivery.ack()
        consumer.flush()
        assert bench.drain(consumer, queue) == []

    def _taker(self, bench: Bench, queue: str, count: int) -> subprocess.Popen[str]:
        kind = bench.transport_type
        recipe = {
            "transport": f"{kind.__module__}:{kind.__qualname__}",
            "path": sys.path,
            "url": bench.url,
            "options": dict(self.options),
            "settings": dict(self.settings),
            "queue": queue,
            "count": count,
        }
        argv = [sys.executable, "-m", "framework.testing.taker", json.dumps(recipe)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    # ------------------------------------------------------------ queues

    def test_a_cancelled_queue_keeps_its_messages(self, bench: Bench) -> None:
        """A cancelled queue delivers nothing until it is added again; its deliveries can still be settled."""
        queue, other = bench.filled(3), bench.queue()
        consumer = bench.consumer()
        consumer.prefetch(1)
        consumer.add_queue(queue)
        [held] = bench.gather(consumer, 1)
        others = sorted({"0", "1", "2"} - {*ids([held])})
        consumer.cancel_queue(queue.name)
        consumer.cancel_queue(queue.name)
        consumer.add_queue(other)
        consumer.prefetch(10)
        assert bench.drain(consumer, other) == []
        held.ack()
        consumer.flush()
        bench.size_becomes(queue, 2)
        consumer.add_queue(queue)
        assert sorted(ids(bench.gather(consumer, 2))) == others

    def test_sizes_and_purge(self, bench: Bench) -> None:
        """`sizes` counts waiting messages; `purge` drops and counts them, but not unacknowledged ones."""
        queue = bench.filled(5)
        assert bench.transport.sizes([queue]) == {queue.name: 5}
        consumer = bench.consumer()
        consumer.prefetch(1)
        consumer.add_queue(queue)
        [held] = bench.gather(consumer, 1)
        bench.size_becomes(queue, 4)
        assert bench.transport.purge(queue) == 4
        spared = ids([held])
        held.reject(requeue=True)
        consumer.flush()
        consumer.prefetch(10)
        assert ids(bench.drain(consumer, queue)) == spared

    def test_a_queue_that_does_not_exist_has_no_size(self, bench: Bench) -> None:
        """The size of a missing queue is None; neither `sizes` nor `purge` creates the queue or raises an error."""
        missing = bench.queue()
        for _ in range(2):
            assert bench.transport.sizes([missing]) == {missing.name: None}
        assert bench.transport.purge(missing) == 0

    @pytest.mark.parametrize("number", [1, 50])
    def test_exactly_the_unsettled_come_back(self, bench: Bench, number: int) -> None:
        """When a consumer closes, exactly the messages that it has not acknowledged or dropped are redelivered."""
        queue = bench.filled(number * 3)
        consumer = bench.consumer(queue)
        kept = []
        for place, delivery in enumerate(bench.gather(consumer, number * 3)):
            if place % 3 == 0:
                delivery.ack()
            elif place % 3 == 1:
                delivery.reject(requeue=False)
            else:
                kept += ids([delivery])
        consumer.close(requeue=True)
        assert sorted(ids(bench.gather(bench.consumer(queue), number))) == sorted(kept)
