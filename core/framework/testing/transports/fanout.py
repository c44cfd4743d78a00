"""Mailboxes: a broadcast reaches every subscriber once, and a reply reaches only the requester."""

from __future__ import annotations

import msgspec
import pytest

from framework.api.transport import Exchange, Mailbox, Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing, read
from framework.testing.transports.base import Bench, TransportSuiteBase, ids, needs


def own(queue: str, exchange: Exchange, key: str = "") -> Queue:
    """Return an exclusive queue for one mailbox."""
    return Queue(name=queue, exchange=exchange, routing_key=key, durable=False, exclusive=True, auto_delete=True)


def broadcast(text: str, exchange: Exchange) -> Outgoing:
    """Return a message to all subscribers of `exchange`."""
    return Outgoing(text.encode(), {}, exchange=exchange.name, exchange_type="fanout", delivery_mode=1)


class FanoutPromises(TransportSuiteBase):
    """Tests of mailboxes."""

    def _control(self, bench: Bench) -> Exchange:
        return Exchange(bench.new("control"), type="fanout", durable=False)

    @needs("fanout")
    def test_a_broadcast_reaches_every_mailbox_once(self, bench: Bench) -> None:
        """Every subscriber of an exchange gets each broadcast once and in order; subscribers of others get none."""
        control, other = self._control(bench), self._control(bench)
        mailboxes = [bench.mailbox(own(bench.new(), control)) for _ in range(2)]
        unrelated = bench.mailbox(own(bench.new(), other))
        sender = bench.mailbox()
        sender.send([broadcast(text, control) for text in ("one", "two", "three")])
        sender.send([broadcast("end", control)])
        sender.send([broadcast("end", other)])
        for mailbox in mailboxes:
            assert bench.listen(mailbox, 4) == [(control.name, text) for text in (b"one", b"two", b"three", b"end")]
        assert bench.listen(unrelated, 1) == [(other.name, b"end")]

    @needs("fanout")
    def test_a_producer_broadcasts_too(self, bench: Bench) -> None:
        """A client can broadcast through a producer."""
        control = self._control(bench)
        mailbox = bench.mailbox(own(bench.new(), control))
        bench.producer().publish([broadcast("ping", control)])
        assert bench.listen(mailbox, 1) == [(control.name, b"ping")]

    @needs("fanout")
    def test_every_consumer_of_a_broadcast_queue_gets_a_copy(self, bench: Bench) -> None:
        """Each consumer gets each message, whatever its key; its queue can be sent to, and ends with the consumer."""
        shared = Queue(name=bench.new("all"), exchange=self._control(bench), routing_key="k", broadcast=True)
        queues = [
            msgspec.structs.replace(shared, name=bench.new("own"), alias=shared.name, auto_delete=True)
            for _ in range(2)
        ]
        producer = bench.producer()
        producer.declare([shared])
        to_all = {"exchange": shared.exchange.name, "exchange_type": "fanout"}
        consumers = [bench.consumer(queue) for queue in queues]
        producer.publish([bench.message(key or "none", shared, routing_key=key, **to_all) for key in ("k", "", "x.y")])
        for consumer, queue in zip(consumers, queues, strict=True):
            found = bench.gather(consumer, 3)
            assert ids(found) == ["k", "none", "x.y"]
            place = read(found[0].payload).properties["delivery_info"]
            assert (place["exchange"], place["routing_key"], found[0].queue) == ("", queue.name, queue.name)
            producer.publish([bench.message("back", queue)])
            (back,) = bench.gather(consumer, 1)
            found[0].reject(requeue=True)
            (again,) = bench.gather(consumer, 1)
            assert ids([back, again]) == ["back", "k"]
            for delivery in (*found[1:], back, again):
                delivery.ack()
            consumer.flush()
        consumers[0].cancel_queue(queues[0].name)
        consumers[1].close(requeue=True)
        assert not any(bench.transport.sizes(queues).values())
        assert bench.transport.sizes([shared]) == {shared.name: None}

    @needs("fanout")
    def test_a_broadcast_wakes_who_sleeps(self, bench: Bench) -> None:
        """A broadcast makes the descriptor readable, and `receive` never blocks."""
        control = self._control(bench)
        mailbox, sender = bench.mailbox(own(bench.new(), control)), bench.mailbox()
        for number in range(5):
            while mailbox.receive():
                pass
            sender.send([broadcast(str(number), control)])
            assert bench.readable(mailbox, self.patience), "the descriptor did not become readable"
            assert bench.listen(mailbox, 1) == [(control.name, str(number).encode())]

    @needs("fanout")
    def test_replies_reach_who_asked(self, bench: Bench) -> None:
        """A reply of any size reaches only the reply queue with its routing key."""
        replies = Exchange(bench.new("reply"), durable=False)
        asker, other = (bench.mailbox(own(bench.new(), replies, key)) for key in ("asker", "other"))
        worker = bench.mailbox()
        for size in (2, 1_000_000):
            worker.send([Outgoing(b"x" * size, {}, exchange=replies.name, routing_key="asker", delivery_mode=1)])
            assert bench.listen(asker, 1) == [(replies.name, b"x" * size)]
        worker.send([Outgoing(b"end", {}, exchange=replies.name, routing_key="other", delivery_mode=1)])
        assert bench.listen(other, 1) == [(replies.name, b"end")]

    @needs("fanout")
    def test_replies_to_nobody_vanish(self, bench: Bench) -> None:
        """A message without a receiver is dropped, and the next message is delivered."""
        control = self._control(bench)
        replies = Exchange(bench.new("reply"), durable=False)
        bench.mailbox(own(bench.new(), replies, "known"))
        mailbox = bench.mailbox(own(bench.new(), control))
        sender = bench.mailbox()
        for number in range(3):
            sender.send([Outgoing(b"", {}, exchange=replies.name, routing_key="gone", delivery_mode=1)])
            sender.send([Outgoing(b"", {}, routing_key=bench.new("no-such-queue"), delivery_mode=1)])
            sender.send([broadcast(str(number), control)])
            assert bench.listen(mailbox, 1) == [(control.name, str(number).encode())]

    @needs("fanout")
    def test_events_are_chosen_by_their_key(self, bench: Bench) -> None:
        """A topic exchange delivers events by routing key; a fan-out exchange delivers all events to all."""
        kind = bench.traits.events_exchange
        events = Exchange(bench.new("events"), type=kind)
        some = bench.mailbox(own(bench.new(), events, "task.#"))
        everything = bench.mailbox(own(bench.new(), events, "#"))
        sender = bench.mailbox()
        for key in ("worker.online", "task.sent", "task.end"):
            sender.send(
                [Outgoing(key.encode(), {}, exchange=events.name, routing_key=key, exchange_type=kind, delivery_mode=1)]
            )
        assert [body for _, body in bench.listen(everything, 3)] == [b"worker.online", b"task.sent", b"task.end"]
        received = [body for _, body in self._until(bench, some, b"task.end")]
        assert received == [b"task.sent", b"task.end"] if kind == "topic" else received[-1] == b"task.end"

    def _until(self, bench: Bench, mailbox: Mailbox, last: bytes) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        while not found or found[-1][1] != last:
            found += bench.listen(mailbox, 1)
        return found

    @needs("fanout")
    def test_reach_counts_subscribers(self, bench: Bench) -> None:
        """`reach` sends messages and returns how many subscribers got them, or None if the broker does not count."""
        control = self._control(bench)
        for _ in range(2):
            bench.mailbox(own(bench.new(), control))
        assert bench.mailbox().reach([broadcast("ping", control)]) in (2, None)

    @needs("fanout")
    def test_reach_knows_when_nobody_listens(self, bench: Bench) -> None:
        """`reach` returns 0 without a subscriber, before the first one and after the last, if the broker can tell."""
        control = self._control(bench)
        sender = bench.mailbox()
        first = sender.reach([broadcast("ping", control)])
        mailbox = bench.mailbox(own(bench.new(), control))
        assert sender.reach([broadcast("pong", control)]) in (1, None)
        assert bench.listen(mailbox, 1) == [(control.name, b"pong")]
        mailbox.close()
        assert first in (0, None)
        assert sender.reach([broadcast("ping", control)]) in (0, None)

    @needs("fanout")
    def test_a_closed_mailbox_is_out(self, bench: Bench) -> None:
        """A second `close` is harmless; later broadcasts reach the others, and `receive` raises ConnectionLost."""
        control = self._control(bench)
        gone, here = (bench.mailbox(own(bench.new(), control)) for _ in range(2))
        gone.close()
        gone.close()
        bench.mailbox().send([broadcast("ping", control)])
        assert bench.listen(here, 1) == [(control.name, b"ping")]
        with pytest.raises(ConnectionLost):
            gone.receive()
