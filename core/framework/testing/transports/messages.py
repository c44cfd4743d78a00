"""Promise 1: every message is delivered once, in order and unchanged."""

from __future__ import annotations

import threading

import pytest

from framework.api.transport import Exchange
from framework.exceptions import PublishRefused
from framework.message import Outgoing, read, read_head
from framework.testing.transports.base import Bench, TransportSuiteBase, ids, numbers


class MessagePromises(TransportSuiteBase):
    """Tests of publishing and fetching."""

    def test_every_message_comes_once(self, bench: Bench) -> None:
        """Each of thousands of messages, fetched in batches, is delivered once."""
        queue = bench.filled(self.many)
        consumer = bench.consumer(queue)
        found: list[str] = []
        while len(found) < self.many:
            batch = bench.gather(consumer, min(100, self.many - len(found)))
            found += ids(batch)
            for delivery in batch:
                delivery.ack()
        consumer.flush()
        assert sorted(found, key=int) == numbers(self.many)
        assert bench.drain(consumer, queue) == []

    def test_messages_come_in_order(self, bench: Bench) -> None:
        """Messages are delivered first in, first out, also over several batches."""
        queue = bench.filled(100)
        consumer = bench.consumer(queue)
        assert ids(bench.gather(consumer, 30) + bench.gather(consumer, 70)) == numbers(100)

    def test_messages_can_be_looked_at(self, bench: Bench) -> None:
        """`peek` shows waiting messages in the order of delivery and leaves them; None if the broker cannot."""
        queue = bench.filled(5)
        transport = bench.another()
        for _ in range(2):
            found = transport.peek(queue, 3)
            if found is None:
                return
            assert [read_head(peeked.payload).headers.id for peeked in found] == numbers(3)
            assert all(peeked.due is None for peeked in found)
        assert not transport.peek(bench.queue(), 3)
        assert ids(bench.gather(bench.consumer(queue), 5)) == numbers(5)

    def test_publish_returns_when_the_broker_has_them(self, bench: Bench) -> None:
        """When `publish` returns, the broker has every message of the batch."""
        queue = bench.queue()
        producer = bench.producer()
        producer.declare([queue])
        for number in range(1, 6):
            producer.publish([bench.message(each, queue) for each in range(10)])
            assert bench.another().sizes([queue]) == {queue.name: number * 10}

    def test_a_message_keeps_everything_it_had(self, bench: Bench) -> None:
        """A delivery has the body, headers, content type and encoding, ids, priority and routing key of its message."""
        queue = bench.queue()
        consumer = bench.consumer(queue)
        sent = Outgoing(
            body=b"\xff\x00body",
            headers={"task": "t", "id": "x", "own": [1, None, {"a": "\u00fc"}], "retries": 2},
            routing_key=queue.name,
            content_type="application/data",
            content_encoding="binary",
            correlation_id="x",
            reply_to="me",
            priority=3,
        )
        bench.producer().publish([sent])
        [delivery] = bench.gather(consumer, 1)
        incoming = read(delivery.payload)
        assert incoming.body == sent.body
        assert {key: incoming.headers.get(key) for key in sent.headers} == sent.headers
        assert (incoming.content_type, incoming.content_encoding) == ("application/data", "binary")
        wanted = {"correlation_id": "x", "reply_to": "me", "priority": 3}
        assert {key: incoming.properties.get(key) for key in wanted} == wanted
        assert incoming.properties["delivery_info"]["routing_key"] == queue.name
        assert (delivery.queue, delivery.deliveries) == (queue.name, 0)

    @pytest.mark.parametrize("size", [0, 1, 200_000, 3_000_000])
    def test_bodies_of_any_size(self, bench: Bench, size: int) -> None:
        """Bodies may be empty or have megabytes."""
        queue = bench.queue()
        consumer = bench.consumer(queue)
        bench.producer().publish([bench.message("x", queue, body=b"\xfe" * size)])
        [delivery] = bench.gather(consumer, 1)
        assert read(delivery.payload).body == b"\xfe" * size

    def test_fetch_returns_no_more_than_it_was_asked_for(self, bench: Bench) -> None:
        """`fetch` returns at most the given number of deliveries."""
        consumer = bench.consumer(bench.filled(20))
        found = bench.gather(consumer, 1)
        while len(found) < 20:
            batch = consumer.fetch(3)
            assert len(batch) <= 3
            found += batch
            if not batch:
                bench.readable(consumer, self.patience)
        assert len(set(ids(found))) == 20

    def test_two_consumers_share_a_queue(self, bench: Bench) -> None:
        """Each message goes to one of two consumers of a queue."""
        queue = bench.queue()
        bench.producer().declare([queue])
        one, two = bench.consumer(queue), bench.consumer(queue)
        for consumer in (one, two):
            consumer.prefetch(20)
        bench.producer().publish([bench.message(number, queue) for number in range(40)])
        found = bench.gather(one, 20) + bench.gather(two, 20)
        assert sorted(ids(found), key=int) == numbers(40)

    def test_one_consumer_serves_several_queues(self, bench: Bench) -> None:
        """A consumer gets messages from all of its queues, and each delivery names its queue."""
        full, other = bench.filled(200), bench.filled(5)
        consumer = bench.consumer(full, other)
        found = bench.gather(consumer, 205)
        assert {queue.name: sum(each.queue == queue.name for each in found) for queue in (full, other)} == {
            full.name: 200,
            other.name: 5,
        }

    def test_threads_share_a_producer(self, bench: Bench) -> None:
        """Four threads can publish through one producer at the same time without losing a message."""
        queue = bench.queue()
        producer = bench.producer()
        producer.declare([queue])

        def publish(prefix: str) -> None:
            for number in range(25):
                producer.publish([bench.message(f"{prefix}{number}", queue)])

        threads = [threading.Thread(target=publish, args=(prefix,)) for prefix in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = ids(bench.gather(bench.consumer(queue), 100))
        assert sorted(found) == sorted(f"{prefix}{number}" for prefix in "abcd" for number in range(25))

    def test_declaring_twice_is_harmless(self, bench: Bench) -> None:
        """Declaring an existing queue keeps its messages; adding a queue to a consumer twice has no effect."""
        queue = bench.filled(3)
        bench.producer().declare([queue, queue])
        consumer = bench.consumer(queue, queue)
        assert sorted(ids(bench.gather(consumer, 3))) == numbers(3)
        assert bench.drain(consumer, queue) == []

    def test_no_message_is_dropped_in_silence(self, bench: Bench) -> None:
        """A message to a queue that does not exist is refused, or delivered once the queue is declared."""
        queue = bench.queue()
        try:
            bench.producer().publish([bench.message("x", queue)])
        except PublishRefused:
            return
        assert ids(bench.gather(bench.consumer(queue), 1)) == ["x"]

    def test_a_direct_exchange_feeds_every_queue_with_the_key(self, bench: Bench) -> None:
        """A direct exchange delivers to all queues bound with the routing key, and to no others."""
        exchange = Exchange(bench.new())
        one, two, other = (bench.queue(exchange=exchange, routing_key=key) for key in ("a", "a", "b"))
        producer = bench.producer()
        producer.declare([one, two, other])
        producer.publish([Outgoing(b"", {"task": "t", "id": "1"}, exchange=exchange.name, routing_key="a")])
        for queue in (one, two):
            assert ids(bench.gather(bench.consumer(queue), 1)) == ["1"]
        assert bench.transport.sizes([other]) == {other.name: 0}

    def test_a_topic_exchange_matches_keys(self, bench: Bench) -> None:
        """In a binding key, ``*`` matches one word and ``#`` any number of words."""
        exchange = Exchange(bench.new(), type="topic")
        video = bench.queue(exchange=exchange, routing_key="media.video.#")
        any_media = bench.queue(exchange=exchange, routing_key="media.*")
        producer = bench.producer()
        producer.declare([video, any_media])
        for number, key in enumerate(["media.video", "media.audio", "media.video.hd"]):
            headers = {"task": "t", "id": str(number)}
            producer.publish([Outgoing(b"", headers, exchange=exchange.name, routing_key=key, exchange_type="topic")])
        assert ids(bench.drain(bench.consumer(video), video)) == ["0", "2"]
        assert ids(bench.drain(bench.consumer(any_media), any_media)) == ["0", "1"]

    def test_the_highest_priority_comes_first(self, bench: Bench) -> None:
        """Messages are delivered by priority, on the broker's own scale; equal priorities stay in order."""
        queue = bench.queue(max_priority=10)
        producer = bench.producer()
        producer.declare([queue])
        order = [5, 0, 9, 5, 0, 9]
        producer.publish([bench.message(n, queue, priority=priority) for n, priority in enumerate(order)])
        found = [int(each) for each in ids(bench.gather(bench.consumer(queue), 6))]
        lowest_first, highest_first = [1, 4, 0, 3, 2, 5], [2, 5, 0, 3, 1, 4]
        assert found in (lowest_first, highest_first)
