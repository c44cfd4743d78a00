"""Promise 3: `fetch` never blocks, and a new message makes the consumer's descriptor readable."""

from __future__ import annotations

import threading
import time

from framework.testing.harness import within
from framework.testing.transports.base import Bench, TransportSuiteBase, ids, numbers


class WakingPromises(TransportSuiteBase):
    """Tests of waiting for messages."""

    def test_fetch_does_not_wait(self, bench: Bench) -> None:
        """`fetch` from an empty queue returns at once, also repeatedly."""
        consumer = bench.consumer(bench.queue())
        for _ in range(20):
            assert within(self.patience / 4, lambda: list(consumer.fetch(10)), "fetch") == []

    def test_a_message_wakes_an_idle_consumer(self, bench: Bench) -> None:
        """After a `fetch` that returned fewer messages than requested, a new message makes the descriptor readable."""
        queue = bench.queue()
        consumer = bench.consumer(queue)
        producer = bench.producer()
        for number in range(5):
            assert consumer.fetch(10) == []
            publisher = threading.Timer(0.05, producer.publish, ([bench.message(number, queue)],))
            publisher.start()
            found: list[str] = []
            while not found:
                assert bench.readable(consumer, self.patience), "the descriptor did not become readable"
                found += ids(consumer.fetch(10))
            publisher.join(self.patience)
            assert found == [str(number)]

    def test_attending_takes_nothing_away(self, bench: Bench) -> None:
        """`poll_while_full` returns no new messages; each redelivered one comes once, from it or from `fetch`."""
        queue = bench.filled(3)
        consumer = bench.consumer(queue)
        found: list[str] = []
        for _ in range(3):
            # A broker that pushes may deliver before or after this call.
            assert not consumer.poll_while_full()
            found += ids(bench.gather(consumer, 1))
        assert sorted(found) == numbers(3)
        consumer.close(requeue=True)
        other = bench.consumer(queue)
        again = ids(other.poll_while_full() or ())
        again += ids(bench.gather(other, 3 - len(again)))
        assert sorted(again) == numbers(3)

    def test_who_rests_leaves_the_others_theirs(self, bench: Bench) -> None:
        """After `pause_delivery`, other consumers get the waiting messages; the next `fetch` resumes delivery."""
        queue = bench.filled(3)
        full = bench.consumer(queue)
        full.prefetch(1)
        for delivery in bench.gather(full, 1):
            delivery.ack()
        full.pause_delivery(0)
        other = bench.consumer(queue)
        left = bench.gather(other, 2)
        for delivery in left:
            delivery.ack()
        other.close(requeue=True)
        bench.producer().publish([bench.message(3, queue)])
        assert len(left) == 2
        assert ids(bench.gather(full, 1)) == ["3"]

    def test_no_wake_up_is_lost_in_a_race(self, bench: Bench) -> None:
        """A message that arrives just as the consumer begins to wait makes the descriptor readable."""
        queue = bench.queue()
        consumer = bench.consumer(queue)
        producer = bench.producer()
        taken = threading.Semaphore(1)

        def publish() -> None:
            for number in range(100):
                taken.acquire()
                producer.publish([bench.message(number, queue)])

        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        found: list[str] = []
        while len(found) < 100:
            for delivery in consumer.fetch(10):
                found += ids([delivery])
                delivery.ack()
                taken.release()
            if len(found) < 100:
                assert bench.readable(consumer, self.patience), (
                    f"the descriptor did not become readable after {len(found)} messages"
                )
        thread.join(self.patience)
        assert found == numbers(100)

    def test_other_calls_pass_a_wake_up_on(self, bench: Bench) -> None:
        """`recall` and `heartbeat`, in any number, leave the descriptor of a consumer readable until it fetches."""
        queue = bench.queue()
        consumer = bench.consumer(queue)
        producer = bench.producer()
        for number, calls in enumerate(("recall", "heartbeat", "both")):
            assert consumer.fetch(10) == []
            producer.publish([bench.message(number, queue)])
            for _ in range(3):
                assert bench.readable(consumer, self.patience), f"no wake-up is left after {calls}"
                if calls != "heartbeat":
                    assert not consumer.recall(["none"])
                if calls != "recall":
                    consumer.heartbeat()
            [delivery] = bench.gather(consumer, 1)
            assert ids([delivery]) == [str(number)]
            delivery.ack()

    def test_what_another_gives_back_wakes(self, bench: Bench) -> None:
        """A message that another consumer requeues wakes a waiting consumer."""
        queue = bench.filled(1)
        one = bench.consumer(queue)
        [held] = bench.gather(one, 1)
        two = bench.consumer(queue)
        assert two.fetch(10) == []
        held.reject(requeue=True)
        one.close(requeue=True)
        assert ids(bench.gather(two, 1)) == ["0"]

    def test_the_descriptor_stays_the_same(self, bench: Bench) -> None:
        """`fileno` returns the same descriptor until `close`."""
        queue = bench.queue()
        consumer = bench.consumer(queue)
        descriptor = consumer.fileno()
        bench.producer().publish([bench.message(0, queue)])
        [delivery] = bench.gather(consumer, 1)
        delivery.ack()
        consumer.flush()
        consumer.heartbeat()
        assert consumer.fetch(10) == []
        assert consumer.fileno() == descriptor

    def test_it_does_not_spin(self, bench: Bench) -> None:
        """The descriptor of an idle consumer is not readable all the time."""
        consumer = bench.consumer(bench.queue())
        wakings = 0
        end = time.monotonic() + 1
        while time.monotonic() < end and bench.readable(consumer, 0.3):
            assert consumer.fetch(10) == []
            wakings += 1
        assert wakings < 50, "the descriptor is readable all the time without a message"

    def test_heartbeats_harm_nothing(self, bench: Bench) -> None:
        """`heartbeat` may be called at any time: it loses no unacknowledged and no waiting message."""
        queue = bench.filled(3)
        consumer = bench.consumer(queue)
        [first, *_] = bench.gather(consumer, 3)
        for _ in range(5):
            consumer.heartbeat()
        first.ack()
        bench.producer().publish([bench.message("more", queue)])
        assert ids(bench.gather(consumer, 1)) == ["more"]
