"""What is handed back: many at a time, and each original is acknowledged when the broker has its copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import Any

import pytest

from framework._boot.loop import EventLoop
from framework.api.transport import Delivery, Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing, again, read, read_head
from framework.worker.dispatch.unknown_tasks import HandBacks
from framework.worker.settle.outbox import Outbox
from framework_transports.amqp import AmqpTransport
from support.deliveries import gather
from support.wait import wait_for

Q = Queue(name="q", routing_key="q")


def ids(deliveries: Any) -> list[str | None]:
    return [read_head(delivery.payload).headers.id for delivery in deliveries]


@pytest.fixture
def scene(amqp_url: str) -> Iterator[SimpleNamespace]:
    """A real broker, and a loop that turns when it is told to."""
    transport = AmqpTransport(amqp_url, AmqpTransport.options_type(), {})
    loop = EventLoop()
    outbox = Outbox(transport.producer)
    kept: list[Delivery] = []
    with ExitStack() as stack:
        producer = transport.producer()
        for each in (transport, loop, outbox, producer):
            stack.enter_context(closing(each))
        yield SimpleNamespace(
            stack=stack,
            transport=transport,
            loop=loop,
            outbox=outbox,
            producer=producer,
            kept=kept,
            handbacks=HandBacks(loop, outbox, kept.append),
        )


def fill(scene: SimpleNamespace, queue: Queue, numbers: range) -> None:
    scene.producer.declare([queue])
    scene.producer.publish(
        [Outgoing(b"[]", {"task": "t", "id": str(number)}, routing_key=queue.name) for number in numbers]
    )


def take(scene: SimpleNamespace, queue: Queue, count: int) -> tuple[Any, list[Delivery]]:
    consumer = scene.transport.consumer()
    scene.stack.callback(consumer.close, requeue=True)
    consumer.prefetch(count)
    consumer.add_queue(queue)
    return consumer, gather(consumer, count)


def hand_back(scene: SimpleNamespace, deliveries: list[Delivery]) -> int:
    """Hand all back; return in how many turns of the loop."""
    for delivery in deliveries:
        scene.handbacks.add(delivery, again(delivery.payload, delivery.queue, {"copy": True}))
    turns = 0
    while len(scene.handbacks):
        scene.loop._turn()
        turns += 1
    return turns


def test_a_turn_hands_many_back(scene: SimpleNamespace) -> None:
    fill(scene, Q, range(600))
    consumer, deliveries = take(scene, Q, 600)
    told: list[int] = []
    scene.handbacks.on_sent = lambda: told.append(len(scene.handbacks))
    assert hand_back(scene, deliveries) == len(told) == 3
    assert told[-1] == 0
    assert scene.kept == []
    consumer.close(requeue=True)
    # The copies, and no original.
    _, copies = take(scene, Q, 600)
    assert ids(copies) == [str(number) for number in range(600)]
    assert all(read(each.payload).headers["copy"] for each in copies)
    assert scene.transport.sizes([Q]) == {"q": 0}


def test_what_the_broker_does_not_take_is_kept(scene: SimpleNamespace) -> None:
    """A queue with room for two copies: the others stay on loan, and none is there twice."""
    full = Queue(name="full", routing_key="full", max_length=3, queue_arguments={"x-overflow": "reject-publish"})
    fill(scene, full, range(3))
    consumer, deliveries = take(scene, full, 3)
    fill(scene, full, range(3, 4))
    hand_back(scene, deliveries)
    assert ids(scene.kept) == ["2"]
    consumer.close(requeue=True)
    _, left = take(scene, full, 4)
    assert sorted(map(str, ids(left))) == ["0", "1", "2", "3"]


def test_a_broker_that_is_away_keeps_everything(scene: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(scene, Q, range(300))
    consumer, deliveries = take(scene, Q, 300)

    def away() -> Any:
        raise ConnectionLost("on purpose")

    monkeypatch.setattr(scene.outbox, "_make_producer", away)
    hand_back(scene, deliveries)
    assert ids(scene.kept) == ids(deliveries)
    consumer.close(requeue=True)
    wait_for(lambda: scene.transport.sizes([Q]) == {"q": 300}, 20, "all to be back")


def test_what_waits_when_the_connection_is_lost_is_not_sent(scene: SimpleNamespace) -> None:
    fill(scene, Q, range(3))
    consumer, deliveries = take(scene, Q, 3)
    for delivery in deliveries:
        scene.handbacks.add(delivery, again(delivery.payload, delivery.queue, {"copy": True}))
    assert scene.handbacks.clear() == deliveries
    scene.loop._turn()
    consumer.close(requeue=True)
    wait_for(lambda: scene.transport.sizes([Q]) == {"q": 3}, 20, "the originals, and nothing else")
