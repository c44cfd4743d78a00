"""Promises 2 and 4: a message on loan is settled once, or comes back, whatever happens to who had it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from framework.message import read_head
from framework.testing.transports.base import Bench, TransportSuiteBase, ids, needs, numbers


class SettlingPromises(TransportSuiteBase):
    """What becomes of a delivery."""

    def test_what_is_acknowledged_is_gone(self, bench: Bench) -> None:
        """It does not come back, also when its consumer gives back what it has."""
        queue = bench.filled(4)
        consumer = bench.consumer(queue)
        for delivery in bench.gather(consumer, 4):
            delivery.ack()
        consumer.flush()
        consumer.close(requeue=True)
        assert bench.drain(bench.consumer(queue), queue) == []

    def test_settlements_are_sent_with_the_next_fetch(self, bench: Bench) -> None:
        """Without a `flush`: `fetch` sends them first."""
        queue = bench.filled(2)
        consumer = bench.consumer(queue)
        for delivery in bench.gather(consumer, 2):
            delivery.reject(requeue=True)
        assert sorted(ids(bench.gather(consumer, 2))) == ["0", "1"]

    def test_each_settlement_does_what_it_says(self, bench: Bench) -> None:
        """Of a batch, one is acknowledged, one dropped, one given back, one released: the last two come again."""
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
        """What is said after the first settlement changes nothing."""
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
        """Before what waited behind it.

        While nobody consumes: a broker that is told two things at once, that a message is back and that there is room
        for one more, may deal with the second first.
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
        """How often it was handed out before: in the delivery, and in the message for whoever gets it."""
        queue = bench.filled(1)
        consumer = bench.consumer(queue)
        for count in range(3):
            [delivery] = bench.gather(consumer, 1)
            assert delivery.deliveries == count
            assert (read_head(delivery.payload).headers.deliveries or 0) == count
            delivery.reject(requeue=True)

    def test_what_is_on_loan_is_nobody_elses(self, bench: Bench) -> None:
        """Another consumer gets what is left, and the rest when it is given back."""
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
        """What was settled before is settled; a second close changes nothing."""
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
        """A connection is given up, and the next one asked to adopt: what it does not take over comes back, once."""
        queue = bench.filled(6)
        lost = bench.consumer(queue)
        first, second, done, *_others = bench.gather(lost, 6)
        wanted = {delivery: ids([delivery])[0] for delivery in (first, second)}
        settled = ids([done])[0]
        done.ack()
        consumer = bench.transport.consumer()
        bench.faces.callback(consumer.close, requeue=False)
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
        """A process takes messages and dies without a word: every one comes to somebody else, once."""
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
        """Nothing more comes of it; what is on loan can be settled; consumed again, it goes on."""
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
        """How many wait. A purge drops what waits, says how much that was, and spares what is on loan."""
        queue = bench.filled(5)
        assert bench.transport.sizes([queue]) == {queue.name: 5}
        consumer = bench.consumer()
        consumer.prefetch(1)
        consumer.add_queue(queue)
        [loan] = bench.gather(consumer, 1)
        bench.size_becomes(queue, 4)
        assert bench.transport.purge(queue) == 4
        spared = ids([loan])
        loan.reject(requeue=True)
        consumer.flush()
        consumer.prefetch(10)
        assert ids(bench.drain(consumer, queue)) == spared

    def test_a_queue_that_does_not_exist_has_no_size(self, bench: Bench) -> None:
        """None, and not 0; nor does asking make one. There is nothing to purge in it, which is no error."""
        missing = bench.queue()
        for _ in range(2):
            assert bench.transport.sizes([missing]) == {missing.name: None}
        assert bench.transport.purge(missing) == 0

    @pytest.mark.parametrize("number", [1, 50])
    def test_exactly_the_unsettled_come_back(self, bench: Bench, number: int) -> None:
        """Every third is acknowledged, every third dropped; the consumer goes, and the others come again."""
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
