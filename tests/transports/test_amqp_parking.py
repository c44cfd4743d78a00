"""Parking on RabbitMQ: what the suite for all transports cannot see of it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from framework.api.transport import Consumer, Delivery, Exchange, Queue
from framework.message import Outgoing, read
from framework_transports.amqp import AmqpTransport, parking
from framework_transports.amqp.acknowledged import mark_of
from framework_transports.amqp.levels import LEVELS, UNIT, can_wait, exchange_of, level_queues, routing_key, units
from support.brokers import PrivateRabbit
from support.deliveries import gather, ids
from support.proxy import Proxy
from support.wait import wait_for

#: Seconds for which the tests park.
SHORT = 0.3
LONG = 3600.0


def queue(name: str = "q", **given: Any) -> Queue:
    return Queue(name=name, exchange=Exchange(name), routing_key=name, **given)


QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Originals are acknowledged with the confirmation; test_amqp_outages has the broker killed."""
    monkeypatch.setattr(parking, "SAFE_AFTER", 0.0)


@pytest.fixture
def make(amqp_url: str) -> Iterator[Callable[..., AmqpTransport]]:
    with ExitStack() as stack:

        def build(url: str = amqp_url) -> AmqpTransport:
            return stack.enter_context(closing(AmqpTransport(url, AmqpTransport.options_type(), {})))

        yield build


@pytest.fixture
def transport(make: Callable[..., AmqpTransport]) -> AmqpTransport:
    return make()


@pytest.fixture
def consume() -> Iterator[Callable[..., Consumer]]:
    with ExitStack() as stack:

        def begin(transport: AmqpTransport, *queues: Queue, limit: int = 100) -> Consumer:
            made = transport.consumer()
            stack.callback(made.close, requeue=True)
            made.prefetch(limit)
            for each in queues:
                made.add_queue(each)
            return made

        yield begin


def send(transport: AmqpTransport, to: Queue, *ids: str, **given: Any) -> None:
    given.setdefault("routing_key", to.name)
    with closing(transport.producer()) as producer:
        producer.declare([to])
        producer.publish(
            [Outgoing(b"[[], {}, {}]", {"task": "t", "id": each}, correlation_id=each, **given) for each in ids]
        )


def park(consumer: Consumer, deliveries: list[Delivery], ahead: float = LONG) -> None:
    """Park, and wait until the broker has them and has forgotten the originals."""
    for delivery in deliveries:
        assert delivery.park(time.time() + ahead)

    def parked() -> bool:
        assert consumer.fetch(1) == []
        return consumer.due_at is None

    wait_for(parked, 20, "the broker to confirm")


# ---------------------------------------------------------------- levels


def test_nothing_is_parked_for_too_short_or_much_too_long() -> None:
    for ahead in (0.001, 0.1, 0.55, 1.0, 9.99):
        assert ahead <= units(ahead) * UNIT + 1e-9 < ahead + UNIT + 1e-9
    for ahead in (10.1, 60.0, 3600.0, 86_400.0):
        assert ahead - 4.7 < units(ahead) * UNIT <= ahead - 3.0
    assert units(10.0**9) < 2**LEVELS
    assert units(-5.0) == 1


def test_the_way_is_in_the_routing_key() -> None:
    key = routing_key(5, "a.b#c*")
    assert key == "0." * (LEVELS - 3) + "1.0.1.a%2Eb%23c%2A"
    assert exchange_of(5) == "framework.parking.2"


def test_what_may_be_gone_by_then_is_not_parked(transport: AmqpTransport, consume: Any) -> None:
    assert can_wait(queue())
    for other in (
        queue(durable=False),
        queue(auto_delete=True),
        queue(exclusive=True),
        queue(no_ack=True),
        queue(expires=60.0),
        queue("x" * 201),
    ):
        assert not can_wait(other)
    passing = queue("passing", auto_delete=True)
    send(transport, passing, "a")
    [delivery] = gather(consume(transport, passing), 1)
    assert not delivery.park(time.time() + LONG)
    delivery.ack()


# ---------------------------------------------------------------- messages


def test_it_comes_back_as_it_was(transport: AmqpTransport, consume: Any) -> None:
    """Also the second time: the broker must not take that for a circle."""
    own = Queue(name="own", exchange=Exchange("topics", "topic"), routing_key="own.#", max_priority=9)
    headers = {"task": "t", "id": "a", "eta": "2099-01-01T00:00:00+00:00", "n": None, "deep": {"x": [1, 2.5, True]}}
    with closing(transport.producer()) as producer:
        producer.declare([own])
        producer.publish(
            [
                Outgoing(
                    b"\x00body",
                    headers,
                    exchange="topics",
                    exchange_type="topic",
                    routing_key="own.key",
                    content_type="application/x-mine",
                    content_encoding="binary",
                    correlation_id="a",
                    reply_to="r",
                    priority=7,
                    properties={"message_id": "m", "app_id": "p", "type": "k"},
                )
            ]
        )
    consumer = consume(transport, own)
    [first] = gather(consumer, 1)
    before = read(first.payload)
    for _ in range(3):
        [delivery] = gather(consumer, 1) if first is None else [first]
        first = None
        park(consumer, [delivery], SHORT)
    [last] = gather(consumer, 1)
    after = read(last.payload)
    assert after.headers.pop("x-parked")[:2] == ["topics", "own.key"]
    assert after == before
    assert (last.queue, last.deliveries) == ("own", 0)


def test_what_expires_in_the_broker_is_kept_until_its_time(transport: AmqpTransport, consume: Any) -> None:
    """The worker says that a task has expired; a message that the broker drops is dropped without a word."""
    send(transport, queue(), "a", expiration=5_000)
    consumer = consume(transport, queue())
    park(consumer, gather(consumer, 1), 1.0)
    early = time.monotonic() + 0.5
    [delivery] = gather(consumer, 1)
    assert time.monotonic() > early
    assert "expiration" not in read(delivery.payload).properties


@pytest.mark.parametrize("arguments", [None, QUORUM], ids=["classic", "quorum"])
def test_long_ones_do_not_hold_up_short_ones(transport: AmqpTransport, consume: Any, arguments: Any) -> None:
    q = queue(queue_arguments=arguments)
    send(transport, q, *"abcdef")
    consumer = consume(transport, q)
    ahead = {"a": LONG, "b": 1.0, "c": LONG, "d": 0.2, "e": 0.6, "f": 12 * LONG}
    for delivery in gather(consumer, 6):
        assert delivery.park(time.time() + ahead[str(ids([delivery])[0])])
    assert ids(gather(consumer, 3)) == ["d", "e", "b"]
    assert transport.parked([q]) == {"q": 3}


def test_queues_with_names_like_patterns_get_their_own(transport: AmqpTransport, consume: Any) -> None:
    queues = [queue(name) for name in ("b", "a.b", "#", "a.#", "*", "x y", "ü")]
    for each in queues:
        send(transport, each, each.name)
    consumer = consume(transport, *queues)
    park(consumer, gather(consumer, len(queues)), SHORT)
    found = gather(consumer, len(queues))
    assert sorted((delivery.queue, *ids([delivery])) for delivery in found) == sorted(
        (each.name, each.name) for each in queues
    )
    assert consumer.fetch(10) == []


def test_the_delivery_count_begins_anew(transport: AmqpTransport, consume: Any) -> None:
    q = queue(queue_arguments=QUORUM)
    send(transport, q, "a")
    consumer = consume(transport, q)
    for _ in range(2):
        [delivery] = gather(consumer, 1)
        delivery.reject(requeue=True)
        consumer.flush()
    [delivery] = gather(consumer, 1)
    assert delivery.deliveries == 2
    park(consumer, [delivery], SHORT)
    assert [delivery.deliveries for delivery in gather(consumer, 1)] == [0]


# ---------------------------------------------------------------- how much is on loan


def test_many_pass_though_the_limit_is_low(transport: AmqpTransport, consume: Any) -> None:
    """What waits for a confirmation takes no room; and when all is parked no more is pushed than before."""
    q = queue()
    send(transport, q, *map(str, range(500)))
    consumer = consume(transport, q, limit=2)
    most = 0

    parked = 0
    deadline = time.monotonic() + 60
    while parked < 500 or len(consumer._parking):
        assert time.monotonic() < deadline, f"{parked} are parked"
        found = consumer.fetch(256)
        for delivery in found:
            assert delivery.park(time.time() + LONG)
        parked += len(found)
        most = max(most, len(consumer._parking))
        if not found:
            select.select([consumer.fileno()], [], [], 0.002)
    wait_for(
        lambda: transport.parked([q]) == {"q": 500}, 20, lambda: f"500 to be parked, there are {transport.parked([q])}"
    )
    assert most > 2
    send(transport, q, *map(str, range(10)))
    held = gather(consumer, 2)
    assert consumer.fetch(10) == []
    assert len(held) == 2
    assert transport.sizes([q]) == {"q": 8}


# ---------------------------------------------------------------- troubles


def test_a_broker_that_is_short_of_memory_parks_nothing(
    rabbit_server: PrivateRabbit, make: Any, consume: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And acknowledgements go on: they have a connection of their own."""
    transport = make()
    q = queue()
    send(transport, q, *"abcdef")
    consumer = consume(transport, q)
    a, b, c, d, e, f = gather(consumer, 6)
    park(consumer, [a])
    rabbit_server.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).")
    try:
        # The broker says so when it is sent something.
        assert b.park(time.time() + LONG)
        wait_for(
            lambda: consumer.fetch(1) == [] and consumer._parking._connection.blocked, 20, "the broker to block us"
        )
        assert not c.park(time.time() + LONG)
        for delivery in (c, d, e):
            delivery.ack()
        consumer.flush()
        f.reject(requeue=True)
        assert ids(gather(consumer, 1)) == ["f"], "the broker does not hear us"
        assert consumer.due_at is not None
    finally:
        rabbit_server.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).")
    wait_for(lambda: consumer.fetch(1) == [] and consumer.due_at is None, 20, "b to be parked")
    consumer.close(requeue=True)
    assert transport.parked([q]) == {"q": 2}
    wait_for(lambda: transport.sizes([q]) == {"q": 1}, 20, "only f to be left")


def test_what_is_not_confirmed_comes_again(amqp_url: str, make: Any, consume: Any) -> None:
    """The connection that parks is lost, and what becomes of its last message is not known: it is there twice."""
    transport, q = make(), queue()
    send(transport, q, "a", "b")
    with closing(Proxy(int(amqp_url.rpartition("/")[0].rpartition(":")[2]))) as proxy:
        consumer = consume(make(proxy.through(amqp_url)), q)
        a, b = gather(consumer, 2)
        park(consumer, [a])
        own = consumer._parking
        assert b.park(time.time() + LONG)
        own._connection.write(b"".join(own._frames))
        own._frames.clear()
        own._connection.abandon()
        [again] = gather(consumer, 1)
        assert (ids([again]), again.deliveries) == (["b"], 1)
        # Not at once: whatever was wrong is likely to be wrong still.
        assert not again.park(time.time() + LONG)
        consumer._parking._paused_until = 0.0
        park(consumer, [again])
    wait_for(lambda: transport.parked([q])["q"] in (2, 3), 20, lambda: f"{transport.parked([q])}")


def test_levels_that_somebody_deleted_are_made_again(rabbit_server: PrivateRabbit, make: Any, consume: Any) -> None:
    transport, q = make(), queue()
    send(transport, q, "a", "b")
    consumer = consume(transport, q)
    a, b = gather(consumer, 2)
    park(consumer, [a])
    with closing(rabbit_server.connect(transport._current.virtual_host)) as connection:
        channel = connection.channel()
        for name in level_queues("q"):
            channel.queue_delete(name)
    assert b.park(time.time() + LONG)
    [again] = gather(consumer, 1)
    assert ids([again]) == ["b"]
    consumer._parking._paused_until = 0.0
    park(consumer, [again])
    assert transport.parked([q]) == {"q": 1}


def test_acknowledged_for_being_parked_and_redelivered(transport: AmqpTransport, consume: Any) -> None:
    """The original, which the broker did not hear of, is dropped; the copy is not, though it has come twice, too."""
    q = queue()
    send(transport, q, "a")
    lost = consume(transport, q)
    [delivery] = gather(lost, 1)
    park(lost, [delivery], SHORT)
    gather(lost, 1)
    lost._connection.abandon()
    new = transport.consumer()
    with closing(Closing(new)):
        new.adopt(lost, [])
        lost._dead = lost._broken = True
        new.add_queue(q)
        [copy] = gather(new, 1)
        assert copy.deliveries == 1
        copy.ack()
        # Now the original, as if its acknowledgement had been lost with the connection.
        new._acknowledged.remember(new._acknowledged, [mark_of(delivery.payload[0])])
        send(transport, q, "a")
        [original] = gather(new, 1)
        original.release()
        new.flush()
        wait_for(lambda: new.fetch(1) == [] and not new._acknowledged, 20, "the original to be known")
    wait_for(lambda: transport.sizes([q]) == {"q": 0}, 20, "nothing to be left")


class Closing:
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def close(self) -> None:
        self._consumer.close(requeue=True)
