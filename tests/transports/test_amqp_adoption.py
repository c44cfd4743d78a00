"""AMQP: what a lost connection acknowledged, and the broker never heard of, does not run again."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost
from framework.message import HANDED_BACK, Outgoing
from framework_transports.amqp import AmqpTransport
from support.deliveries import gather, ids
from support.wait import wait_for

Q = Queue(name="q", routing_key="q")


@pytest.fixture
def transport(amqp_url: str) -> Iterator[AmqpTransport]:
    transport = AmqpTransport(amqp_url, AmqpTransport.options_type(), {})
    yield transport
    transport.close()


@pytest.fixture
def consumer(transport: AmqpTransport) -> Iterator[Callable[[], Consumer]]:
    with ExitStack() as stack:

        def make() -> Consumer:
            made = transport.consumer()
            stack.callback(made.close, requeue=True)
            made.prefetch(100)
            return made

        yield make


def send(transport: AmqpTransport, *ids: str, retries: int = 0, **headers: Any) -> None:
    producer = transport.producer()
    producer.declare([Q])
    producer.publish(
        [
            Outgoing(body=b"", headers={"task": "t", "id": task_id, "retries": retries, **headers}, routing_key="q")
            for task_id in ids
        ]
    )
    producer.close()


def cut(consumer: Consumer) -> None:
    with socket.socket(fileno=os.dup(consumer.fileno())) as shadow:
        shadow.shutdown(socket.SHUT_RDWR)

    def noticed() -> bool:
        try:
            consumer.fetch(100)
        except ConnectionLost:
            return True
        return False

    wait_for(noticed, 20, "the loss to be noticed")


def follow(consumer: Callable[[], Consumer], lost: Consumer) -> Consumer:
    new = consumer()
    assert list(new.adopt(lost, [])) == []
    lost.close(requeue=False)
    new.add_queue(Q)
    return new


def test_acks_that_never_arrived_are_repeated_for_what_comes_back(transport: AmqpTransport, consumer: Any) -> None:
    send(transport, "a", "b", "c", "d")
    lost = consumer()
    lost.add_queue(Q)
    a, b, _c, d = gather(lost, 4)
    for delivery in (a, b):
        delivery.ack()
    cut(lost)
    # Nobody knows of the loss yet.
    d.ack()
    # Lost again at once: it is not forgotten.
    middle = follow(consumer, lost)
    cut(middle)
    new = follow(consumer, middle)
    (again,) = gather(new, 1)
    assert (ids([again]), again.deliveries) == (["c"], 1)
    again.ack()
    # What is behind it in the socket comes to an end, too, and is handed to nobody.
    more: list[Delivery] = []

    def all_seen() -> bool:
        more.extend(new.fetch(100))
        return not new._acknowledged

    wait_for(all_seen, 20, "the others to come back")
    assert more == []
    new.close(requeue=True)
    wait_for(lambda: transport.sizes([Q]) == {"q": 0}, 20, "nothing to come back")


def test_a_new_message_with_a_known_id_is_new(transport: AmqpTransport, consumer: Any) -> None:
    send(transport, "a", "b", "c")
    lost = consumer()
    lost.add_queue(Q)
    for delivery in gather(lost, 3):
        delivery.ack()
    lost.flush()
    wait_for(lambda: transport.sizes([Q]) == {"q": 0}, 20, "an empty queue")
    cut(lost)
    # One sent a second time, and a retry of the other that somebody else had taken.
    send(transport, "a")
    send(transport, "b", retries=1)
    send(transport, "c", **{HANDED_BACK: {"times": 1, "until": 1.5}})
    other = consumer()
    other.add_queue(Q)
    gather(other, 3)
    other.close(requeue=True)
    wait_for(lambda: transport.sizes([Q]) == {"q": 3}, 20, "all to be back")
    new = follow(consumer, lost)
    # The retry and the copy have come back, too, and are not what was acknowledged.
    assert {"b", "c"} <= set(ids(gather(new, 2)))


def test_a_consumer_that_has_no_room_settles_what_comes_again(transport: AmqpTransport, consumer: Any) -> None:
    """It hands out what is not new, for its task may run; what was acknowledged is, once more, at once."""
    send(transport, "a", "b")
    lost = consumer()
    lost.add_queue(Q)
    a, _b = gather(lost, 2)
    a.ack()
    cut(lost)
    new = follow(consumer, lost)
    send(transport, "c")
    again: list[Delivery] = []

    def all_seen() -> bool:
        again.extend(new.poll_while_full() or ())
        return bool(again) and not new._acknowledged and len(new._ready) == 1

    wait_for(all_seen, 20, lambda: f"a and b to come again and c to come; {ids(again)}")
    assert ids(again) == ["b"]
    assert not new._settlements.pending
    assert ids(gather(new, 1)) == ["c"]


def test_what_has_no_id_is_never_taken_for_something_else(transport: AmqpTransport, consumer: Any) -> None:
    with closing(transport.producer()) as producer:
        producer.declare([Q])
        producer.publish([Outgoing(body=body, headers={"task": "t"}, routing_key="q") for body in (b"1", b"2")])
    lost = consumer()
    lost.add_queue(Q)
    gather(lost, 2)[0].ack()
    lost.flush()
    cut(lost)
    new = follow(consumer, lost)
    found: set[bytes] = set()

    def the_other_comes() -> bool:
        found.update(delivery.payload[4] for delivery in new.fetch(10))
        return b"2" in found

    wait_for(the_other_comes, 20, lambda: f"what was not acknowledged; there are {found}")
