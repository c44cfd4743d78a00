"""The Redis transport against a real server: batches, leases, wake-ups, routing, and what others of its layout see."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import msgspec
import pytest
import redis

from framework.api.transport import Consumer, Delivery, Exchange, Mailbox, Queue
from framework.exceptions import ConfigError, ConnectionLost, PublishRefused, TransportError
from framework.message import Outgoing, mark_redelivered, read, read_head
from framework_drivers.redis.url import parse
from framework_transports.redis import RedisOptions, RedisTransport
from support.brokers import PrivateRedis
from support.wait import wait_for

MakeTransport = Callable[..., RedisTransport]
Q = Queue(name="work", exchange=Exchange(name="work"), routing_key="work")
OTHER = Queue(name="other", exchange=Exchange(name="other"), routing_key="other")


@pytest.fixture
def make_transport(redis_url: str) -> MakeTransport:
    def make(url: str = redis_url, settings: dict[str, Any] | None = None, **options: Any) -> RedisTransport:
        return RedisTransport(url, RedisOptions(**options), settings or {})

    return make


@pytest.fixture
def transport(make_transport: MakeTransport) -> RedisTransport:
    return make_transport()


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Looks behind the transport's back."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_server(tmp_path: Any) -> Iterator[PrivateRedis]:
    """Nobody else uses it, so its counts are the test's."""
    server = PrivateRedis(tmp_path / "own")
    server.start()
    yield server
    server.close()


@pytest.fixture
def open_face() -> Iterator[Callable[[Any], Any]]:
    """Closes at the end what it was given."""
    faces: list[Any] = []

    def opened(face: Any) -> Any:
        faces.append(face)
        return face

    yield opened
    for face in faces:
        if isinstance(face, Consumer):
            face.close(requeue=False)
        else:
            face.close()


@pytest.fixture
def producer(transport: RedisTransport, open_face: Any) -> Any:
    return open_face(transport.producer())


@pytest.fixture
def consumer(transport: RedisTransport, open_face: Any) -> Any:
    consumer = open_face(transport.consumer())
    consumer.add_queue(Q)
    return consumer


def message(number: object = 0, queue: str = "work", **fields: Any) -> Outgoing:
    headers = {"task": "proj.add", "id": str(number)}
    return Outgoing(body=b"[[1, 2], {}, {}]", headers=headers, routing_key=queue, correlation_id=str(number), **fields)


def ids(deliveries: Any) -> list[str]:
    return [str(read_head(delivery.payload).headers.id) for delivery in deliveries]


def readable(face: Consumer | Mailbox, timeout: float) -> bool:
    return bool(select.select([face.fileno()], [], [], timeout)[0])


def await_fetch(consumer: Consumer, count: int, timeout: float = 10) -> list[Delivery]:
    """Fetch until `count` are there, sleeping on the descriptor as the worker's loop does."""
    found: list[Delivery] = list(consumer.fetch(count))
    while len(found) < count:
        assert readable(consumer, timeout), f"no wake-up within {timeout} s; {len(found)} of {count} fetched"
        found += consumer.fetch(count - len(found))
    return found


# ---------------------------------------------------------------- batches


def test_messages_come_out_once_and_in_order(producer: Any, consumer: Any, server: redis.Redis) -> None:
    producer.publish([message(number) for number in range(600)])
    found = []
    while batch := consumer.fetch(256):
        found += ids(batch)
        for delivery in batch:
            delivery.ack()
    consumer.flush()
    assert found == [str(number) for number in range(600)]
    assert not [key for key in server.scan_iter() if key.startswith(b"framework.lease.")]


@pytest.mark.acceptance(14)
def test_twenty_thousand_messages_through_two_consumers(transport: RedisTransport, open_face: Any) -> None:
    total = 20_000
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def consume() -> None:
        consumer = transport.consumer()
        consumer.add_queue(Q)
        while True:
            batch = consumer.fetch(64)
            with lock:
                seen.update(ids(batch))
                done = sum(seen.values()) >= total
            for delivery in batch:
                delivery.ack()
            if done:
                break
            if not batch:
                readable(consumer, 0.2)
        consumer.close(requeue=True)

    threads = [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    producer = open_face(transport.producer())
    for start in range(0, total, 2_500):
        producer.publish([message(number) for number in range(start, start + 2_500)])
    for thread in threads:
        thread.join(60)
    assert len(seen) == total
    assert set(seen.values()) == {1}
    assert transport.sizes([Q]) == {"work": 0}


def test_what_is_settled_leaves_and_what_is_given_back_comes_first(producer: Any, consumer: Any) -> None:
    producer.publish([message(number) for number in range(4)])
    first, second, third = consumer.fetch(3)
    first.ack()
    second.reject(requeue=False)
    payload = third.payload
    third.release()
    again = consumer.fetch(1)
    assert ids(again) == ["2"]
    # Handed back unharmed: it is not a redelivery.
    assert again[0].payload == payload
    assert again[0].deliveries == 0
    # Tried and given back: that counts.
    again[0].reject(requeue=True)
    tried = consumer.fetch(10)
    assert ids(tried) == ["2", "3"]
    assert [delivery.deliveries for delivery in tried] == [1, 0]


def test_given_back_in_reverse_they_keep_their_order(producer: Any, consumer: Any) -> None:
    producer.publish([message(number) for number in range(5)])
    for delivery in reversed(consumer.fetch(5)):
        delivery.reject(requeue=True)
    assert ids(consumer.fetch(5)) == ["0", "1", "2", "3", "4"]


def test_settling_twice_is_harmless(producer: Any, consumer: Any, transport: RedisTransport) -> None:
    producer.publish([message(0)])
    (delivery,) = consumer.fetch(1)
    delivery.ack()
    delivery.reject(requeue=True)
    consumer.flush()
    delivery.reject(requeue=True)
    consumer.flush()
    assert transport.sizes([Q]) == {"work": 0}


def test_close_gives_everything_on_loan_back(transport: RedisTransport, producer: Any, consumer: Any) -> None:
    producer.publish([message(number, priority=number % 4) for number in range(8)])
    consumer.fetch(6)[0].ack()
    consumer.close(requeue=True)
    consumer.close(requeue=True)
    assert transport.sizes([Q]) == {"work": 7}
    other = transport.consumer()
    other.add_queue(Q)
    assert ids(other.fetch(10)) == ["1", "2", "4", "5", "6", "3", "7"]
    other.close(requeue=True)


def test_what_a_cancelled_queue_lent_can_still_be_settled(producer: Any, consumer: Any, server: redis.Redis) -> None:
    producer.publish([message(0), message(1)])
    first, second = consumer.fetch(2)
    consumer.cancel_queue("work")
    assert consumer.fetch(5) == []
    first.ack()
    second.reject(requeue=True)
    consumer.fetch(5)
    assert server.llen("work") == 1
    consumer.add_queue(Q)
    assert ids(await_fetch(consumer, 1)) == ["1"]


# ---------------------------------------------------------------- priorities and several queues


@pytest.mark.acceptance(15)
def test_the_lowest_priority_number_is_served_first(producer: Any, consumer: Any, server: redis.Redis) -> None:
    producer.publish([message(number, priority=number) for number in (9, 4, 0, 7, 3)])
    assert server.llen("work\x06\x163") == 2
    assert ids(consumer.fetch(10)) == ["0", "4", "3", "7", "9"]


def test_queues_share_a_batch(producer: Any, consumer: Any) -> None:
    consumer.add_queue(OTHER)
    producer.publish([message(f"a{number}") for number in range(100)])
    producer.publish([message("b", queue="other"), message("b", queue="other"), message("b", queue="other")])
    batch = consumer.fetch(8)
    assert Counter(delivery.queue for delivery in batch) == {"work": 5, "other": 3}
    for _ in range(4):
        assert len(consumer.fetch(2)) == 2


@pytest.mark.parametrize(("strategy", "expected"), [("sorted", "other"), ("priority", "work")])
def test_a_strict_order_empties_one_queue_first(
    make_transport: MakeTransport, producer: Any, open_face: Any, strategy: str, expected: str
) -> None:
    consumer = open_face(make_transport(queue_order_strategy=strategy).consumer())
    consumer.add_queue(Q)
    consumer.add_queue(OTHER)
    producer.publish([message(number, queue=queue) for number in range(4) for queue in ("work", "other")])
    assert {delivery.queue for delivery in consumer.fetch(4)} == {expected}


def test_priority_comes_before_the_order_of_queues(producer: Any, consumer: Any) -> None:
    consumer.add_queue(OTHER)
    producer.publish([message("late", priority=9), message("soon", queue="other", priority=0)])
    assert ids(consumer.fetch(1)) == ["soon"]


# ---------------------------------------------------------------- waking up


def test_an_idle_consumer_is_woken_by_a_message(producer: Any, consumer: Any) -> None:
    for number in range(20):
        assert consumer.fetch(10) == []
        assert not readable(consumer, 0)
        producer.publish([message(number, priority=number % 10)])
        assert ids(await_fetch(consumer, 1)) == [str(number)]


def test_no_wake_up_is_lost_in_a_race(producer: Any, consumer: Any) -> None:
    total = 2_000

    def publish() -> None:
        for number in range(total):
            producer.publish([message(number)])

    thread = threading.Thread(target=publish)
    thread.start()
    found: list[str] = []
    while len(found) < total:
        batch = consumer.fetch(5)
        found += ids(batch)
        for delivery in batch:
            delivery.ack()
        if len(batch) < 5 and len(found) < total:
            assert readable(consumer, 10)
    thread.join()
    assert len(set(found)) == total


def test_a_wake_up_that_flush_or_heartbeat_swallowed_is_passed_on(producer: Any, consumer: Any) -> None:
    for swallow in (consumer.flush, consumer.heartbeat):
        assert consumer.fetch(10) == []
        producer.publish([message()])
        assert readable(consumer, 5)
        swallow()
        assert readable(consumer, 5)
        (delivery,) = consumer.fetch(10)
        delivery.ack()


def test_no_command_loses_a_wake_up(producer: Any, consumer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that comes before, with or after any two commands wakes until a `fetch` comes."""
    broadcasts = Queue(name="copies", exchange=Exchange(name="copies", type="fanout"), routing_key="")

    commands = {
        "recall": lambda: consumer.recall(["none"]),
        "recall nothing": lambda: consumer.recall([]),
        "heartbeat": consumer.heartbeat,
        "subscribe": lambda: consumer.add_queue(broadcasts),
        "unsubscribe": lambda: consumer.cancel_queue("copies"),
        "add": lambda: consumer.add_queue(OTHER),
        "cancel": lambda: consumer.cancel_queue("other"),
    }
    connection = consumer._connection
    send = connection.send
    sequence = [(push, one, two) for push in range(4) for one in commands for two in commands]
    for number, (push, one, two) in enumerate(sequence):
        label = f"push {push} with {one}, {two}"
        assert consumer.fetch(10) == [], label
        assert consumer.fetch(10) == [], label
        sends = 0

        def interleaved(data: bytes, number: int = number, push: int = push) -> None:
            nonlocal sends
            sends += 1
            if sends == push:
                producer.publish([message(number)])
            send(data)

        if push == 0:
            producer.publish([message(number)])
        monkeypatch.setattr(connection, "send", interleaved)
        for name in (one, two):
            # What woke it before is there to be read away by the command.
            readable(consumer, 1 if sends > push or push == 0 else 0)
            commands[name]()
        monkeypatch.setattr(connection, "send", send)
        if sends < push:
            producer.publish([message(number)])
        assert readable(consumer, 30), f"no wake-up after {label}"
        (delivery,) = consumer.fetch(10)
        assert ids([delivery]) == [str(number)], label
        delivery.ack()


def test_a_wake_up_is_found_again_by_the_heartbeat(producer: Any, consumer: Any) -> None:
    assert consumer.fetch(10) == []
    producer.publish([message()])
    for _ in range(2):
        assert readable(consumer, 30)
        consumer.flush()
    assert not readable(consumer, 0.05)
    consumer.heartbeat()
    assert readable(consumer, 30)
    assert len(consumer.fetch(10)) == 1


def test_a_push_that_never_comes_is_found_and_reported(
    producer: Any, consumer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert consumer.heartbeat_interval <= 5
    assert consumer.fetch(10) == []
    consumer.heartbeat()
    assert not caplog.records
    monkeypatch.setattr(consumer._connection, "_on_push", lambda push: None)
    producer.publish([message(7)])
    assert readable(consumer, 30)
    assert consumer.fetch(10) == [], "the push was not lost: nothing is tested"
    consumer.heartbeat()
    assert readable(consumer, 30)
    assert ids(consumer.fetch(10)) == ["7"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"Messages waited at {consumer._connection.address.display} although the server had announced none: "
        "a wake-up was lost, and they are fetched now. This is a defect of the worker or of the server: "
        "please report it"
    ]


def test_only_what_has_to_wake_is_watched(own_server: PrivateRedis, make_transport: MakeTransport) -> None:
    """Not the keys of scripts: the server would note all keys of a script for each read inside it."""
    consumer = make_transport(own_server.url).consumer()
    for number in range(50):
        consumer.add_queue(msgspec.structs.replace(Q, name=f"work{number}"))
    assert consumer.fetch(10) == []
    consumer.heartbeat()
    consumer.recall(["none"])
    lists_and_parked = 4 + 1
    with own_server.client() as client:
        assert client.info("stats")["tracking_total_keys"] == 50 * lists_and_parked
    consumer.close(requeue=True)


def test_what_an_idle_consumer_gives_back_wakes_it(producer: Any, consumer: Any) -> None:
    producer.publish([message(0)])
    for settle in (consumer.flush, lambda: None, consumer.flush):
        (delivery,) = await_fetch(consumer, 1)
        assert consumer.fetch(5) == []
        delivery.reject(requeue=True)
        settle()
    assert ids(await_fetch(consumer, 1)) == ["0"]


def test_a_consumer_without_room_does_not_spin(producer: Any, consumer: Any) -> None:
    assert consumer.fetch(10) == []
    producer.publish([message()])
    assert readable(consumer, 5)
    for _ in range(5):
        consumer.flush()
    # One ring may be on its way; after it has been heard there must be silence.
    readable(consumer, 1)
    consumer.flush()
    assert not readable(consumer, 0.05)
    assert len(consumer.fetch(10)) == 1


def test_a_server_without_pushes_is_polled(
    make_transport: MakeTransport, producer: Any, open_face: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from framework_drivers.redis.resp import RedisConnection

    monkeypatch.setattr(RedisConnection, "watch_keys", lambda connection: False)
    consumer = open_face(make_transport(poll_interval=1).consumer())
    consumer.add_queue(Q)
    assert consumer.fetch(5) == []
    producer.publish([message(7)])
    assert ids(await_fetch(consumer, 1)) == ["7"]


# ---------------------------------------------------------------- dead workers

HOLDER = """
import signal, sys
from framework.api.transport import Exchange, Queue
from framework_drivers.redis.url import parse
from framework_transports.redis import RedisOptions, RedisTransport
consumer = RedisTransport(sys.argv[1], RedisOptions(lease=1), {}).consumer()
consumer.add_queue(Queue(name="work", exchange=Exchange(name="work"), routing_key="work"))
print(len(consumer.fetch(1000)), flush=True)
signal.pause()
"""


@pytest.mark.acceptance(18)
def test_what_a_killed_process_held_comes_back_marked(
    make_transport: MakeTransport, producer: Any, redis_url: str, open_face: Any
) -> None:
    producer.publish([message(number, priority=number % 2 * 5) for number in range(500)])
    with subprocess.Popen([sys.executable, "-c", HOLDER, redis_url], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"500\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    producer.publish([message("new")])
    consumer = open_face(make_transport(lease=1).consumer())
    consumer.add_queue(Q)
    found: list[Delivery] = []

    def all_back() -> bool:
        consumer.heartbeat()
        found.extend(consumer.fetch(1000))
        return len(found) >= 501

    wait_for(all_back, 20, lambda: f"500 messages to come back; {len(found)} did")
    held = [delivery for delivery in found if delivery.deliveries]
    assert sorted(map(int, ids(held))) == list(range(500))
    assert {delivery.deliveries for delivery in held} == {1}
    # Within each priority the old order is kept.
    even = [int(number) for number in ids(held) if int(number) % 2 == 0]
    assert even == sorted(even)
    assert all(read(delivery.payload).headers["redelivered"] for delivery in held)
    head = read_head(held[0].payload)
    assert head.properties.delivery_info is not None
    assert head.properties.delivery_info.redelivered is True


def test_a_live_consumer_keeps_what_it_holds(make_transport: MakeTransport, producer: Any, open_face: Any) -> None:
    holder = open_face(make_transport(lease=0.5).consumer())
    holder.add_queue(Q)
    other = open_face(make_transport(lease=0.5).consumer())
    other.add_queue(Q)
    producer.publish([message(0)])
    (held,) = holder.fetch(5)
    stop = threading.Event()
    beats = 0
    while beats < 8:
        holder.heartbeat()
        other.heartbeat()
        assert other.fetch(5) == []
        beats += 1
        stop.wait(0.15)
    held.ack()
    holder.flush()
    assert other.fetch(5) == []


def test_a_consumer_that_overslept_its_lease_does_no_harm(
    make_transport: MakeTransport, producer: Any, open_face: Any, server: redis.Redis
) -> None:
    sleeper = open_face(make_transport(lease=0.2).consumer())
    sleeper.add_queue(Q)
    producer.publish([message(0)])
    (held,) = sleeper.fetch(5)
    other = open_face(make_transport(lease=30).consumer())
    other.add_queue(Q)

    def taken() -> Any:
        other.heartbeat()
        return other.fetch(5)

    (again,) = wait_for(taken, 30, "the message to be taken from the sleeper")
    held.reject(requeue=True)
    sleeper.heartbeat()
    sleeper.flush()
    assert server.llen("work") == 0
    assert again.deliveries == 1
    again.ack()
    other.flush()
    assert sleeper.fetch(5) == []


def test_an_adopted_queue_is_served(transport: RedisTransport, producer: Any, open_face: Any) -> None:
    """Whether messages waited in it, as far as the lost consumer knew, or not."""
    for idle in (True, False):
        lost, heir = open_face(transport.consumer()), open_face(transport.consumer())
        lost.add_queue(Q)
        if idle:
            assert lost.fetch(5) == []
        heir.adopt(lost, [])
        heir.add_queue(Q)
        producer.publish([message(7)])
        (delivery,) = await_fetch(heir, 1)
        delivery.ack()
        heir.close(requeue=True)


def test_two_consumers_reap_each_message_once(make_transport: MakeTransport, producer: Any, open_face: Any) -> None:
    dead = make_transport(lease=0.1).consumer()
    dead.add_queue(Q)
    producer.publish([message(number) for number in range(700)])
    assert len(dead.fetch(700)) == 700
    dead.close(requeue=False)
    found: list[str] = []
    lock = threading.Lock()

    def reap() -> None:
        consumer = make_transport().consumer()
        consumer.add_queue(Q)

        def look() -> bool:
            consumer.heartbeat()
            batch = consumer.fetch(50)
            with lock:
                found.extend(ids(batch))
                return len(found) >= 700

        wait_for(look, 20, "everything to come back")
        consumer.close(requeue=False)

    threads = [threading.Thread(target=reap) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(int, found)) == list(range(700))


def test_what_a_celery_worker_left_behind_is_taken_over(
    make_transport: MakeTransport, redis_url: str, open_face: Any
) -> None:
    connection = kombu.Connection(redis_url)
    queue = kombu.Queue("work", kombu.Exchange("work"), routing_key="work")
    channel = connection.channel()
    bound = queue(channel)
    bound.declare()
    kombu.Producer(channel).publish({"n": 1}, exchange="work", routing_key="work", priority=5)
    taken = wait_for(bound.get, 30, "kombu to get its message")
    assert taken is not None
    # As a killed worker would: the tag stays in the index, and nothing is restored.
    channel.qos._delivered.clear()
    channel.qos._dirty.clear()
    consumer = open_face(make_transport(visibility_timeout=0.05).consumer())

    def look() -> Any:
        consumer.add_queue(Q)
        consumer.heartbeat()
        return consumer.fetch(5)

    (delivery,) = wait_for(look, 30, "the abandoned message")
    assert delivery.deliveries == 1
    assert read(delivery.payload).body == b'{"n": 1}'
    connection.close()


# ---------------------------------------------------------------- routing


def test_a_message_nobody_takes_is_refused_and_nothing_is_sent(producer: Any, server: redis.Redis) -> None:
    astray = message(1, queue="nowhere", exchange="missing")
    with pytest.raises(PublishRefused, match="missing"):
        producer.publish([message(0), astray])
    assert server.llen("work") == 0


def test_topic_routing_both_ways(producer: Any, consumer: Any, redis_url: str, server: redis.Redis) -> None:
    exchange = Exchange(name="media", type="topic")
    ours = Queue(name="videos", exchange=exchange, routing_key="media.*")
    producer.declare([ours])
    with kombu.Connection(redis_url) as connection:
        channel = connection.channel()
        theirs = kombu.Queue("all", kombu.Exchange("media", "topic"), routing_key="media.#")(channel)
        theirs.declare()
        producer.publish([message("one", queue="media.film", exchange="media", exchange_type="topic")])
        producer.publish([message("two", queue="media.film.short", exchange="media", exchange_type="topic")])
        kombu.Producer(channel).publish({}, exchange="media", routing_key="media.song", headers={"id": "three"})
        assert server.llen("videos") == 2
        assert server.llen("all") == 3
        got = theirs.get(no_ack=True)
        assert got is not None
        assert got.headers["id"] == "one"
        # Both write the same member for the same binding.
        kombu.Queue("videos", kombu.Exchange("media", "topic"), routing_key="media.*")(channel).declare()
    assert server.scard("_kombu.binding.media") == 2
    assert server.smembers("_kombu.binding.media") == server.smembers("_kombu.binding_permanent.media")
    consumer.add_queue(ours)
    assert ids(consumer.fetch(5)) == ["one", "three"]


def test_a_queue_that_expires_is_bound_with_a_deadline(producer: Any, server: redis.Redis) -> None:
    short = Queue(name="short", exchange=Exchange(name="replies"), routing_key="r", expires=5)
    producer.declare([short])
    assert server.exists("_kombu.binding_permanent.replies") == 0
    assert server.zscore("_kombu.binding_deadlines", "replies") is not None
    producer.publish([message(queue="r", exchange="replies")])
    assert 0 < server.pttl("short") <= 5000


def test_a_broadcast_queue_reaches_every_consumer(transport: RedisTransport, producer: Any, open_face: Any) -> None:
    exchange = Exchange(name="news", type="fanout")
    consumers = [open_face(transport.consumer()) for _ in range(2)]
    for number, consumer in enumerate(consumers):
        consumer.add_queue(Queue(name=f"bcast.{number}", exchange=exchange))
        assert consumer.fetch(5) == []
    producer.publish([message("hear", queue="", exchange="news", exchange_type="fanout")])
    for number, consumer in enumerate(consumers):
        (delivery,) = await_fetch(consumer, 1)
        assert delivery.queue == f"bcast.{number}"
        delivery.reject(requeue=True)
        (delivery,) = await_fetch(consumer, 1)
        delivery.ack()


# ---------------------------------------------------------------- beside kombu


def test_a_message_put_by_kombu_is_fetched(consumer: Any, redis_url: str) -> None:
    with kombu.Connection(redis_url) as connection:
        connection.Producer().publish([1, "é"], routing_key="work", headers={"task": "t", "id": "k1"}, priority=3)
    (delivery,) = await_fetch(consumer, 1)
    incoming = read(delivery.payload)
    assert incoming.headers["id"] == "k1"
    assert kombu.serialization.loads(incoming.body, incoming.content_type, incoming.content_encoding) == [1, "é"]


def test_a_message_of_ours_is_consumed_by_kombu(producer: Any, redis_url: str) -> None:
    producer.publish([message(number, priority=6) for number in range(3)])
    seen: list[tuple[str, Any]] = []

    def on_message(body: Any, received: Any) -> None:
        seen.append((received.headers["id"], body))
        received.ack()

    with kombu.Connection(redis_url) as connection:
        queue = kombu.Queue("work", kombu.Exchange("work"), routing_key="work")
        with connection.Consumer([queue], callbacks=[on_message]):
            while len(seen) < 3:
                connection.drain_events(timeout=10)
    assert seen == [(str(number), [[1, 2], {}, {}]) for number in range(3)]


# ---------------------------------------------------------------- mailbox


def test_fan_out_reaches_mailboxes_and_kombu_alike(transport: RedisTransport, open_face: Any, redis_url: str) -> None:
    exchange = Exchange(name="celery.pidbox", type="fanout", durable=False)
    boxes = [open_face(transport.mailbox()) for _ in range(2)]
    for number, box in enumerate(boxes):
        box.subscribe(Queue(name=f"n{number}.celery.pidbox", exchange=exchange, auto_delete=True, expires=10))
    boxes[0].send([message("hi", queue="", exchange="celery.pidbox", exchange_type="fanout")])
    for box in boxes:
        assert readable(box, 5)
        ((name, payload),) = wait_for(box.receive, 20, "the broadcast")
        assert name == "celery.pidbox"
        assert read_head(payload).headers.id == "hi"
    with kombu.Connection(redis_url) as connection:
        theirs = kombu.Exchange("celery.pidbox", "fanout", durable=False)
        kombu.Producer(connection.channel(), theirs).publish({"method": "ping"}, headers={"id": "k"})
    assert readable(boxes[1], 5)
    ((_, payload),) = wait_for(boxes[1].receive, 20, "kombu's broadcast")
    assert read(payload).headers["id"] == "k"


def test_events_are_chosen_by_their_key(transport: RedisTransport, open_face: Any) -> None:
    exchange = Exchange(name="celeryev", type="fanout")
    box = open_face(transport.mailbox())
    box.subscribe(Queue(name="celeryev.1", exchange=exchange, routing_key="worker.#"))
    sender = open_face(transport.mailbox())
    for key in ("task.sent", "worker.online"):
        sender.send([message(key, queue=key, exchange="celeryev", exchange_type="fanout")])
    ((_, payload),) = wait_for(box.receive, 20, "the event")
    assert read_head(payload).headers.id == "worker.online"


def test_replies_reach_the_client_that_asked(transport: RedisTransport, open_face: Any, server: redis.Redis) -> None:
    exchange = Exchange(name="reply.celery.pidbox", durable=False)
    client = open_face(transport.mailbox())
    worker = open_face(transport.mailbox())
    late = message("late", queue="o2", exchange="reply.celery.pidbox")
    worker.send([late])  # nobody there: dropped without a word
    for turn in range(3):
        if not turn:
            queue = Queue(
                name="o1.reply.celery.pidbox", exchange=exchange, routing_key="o1", auto_delete=True, expires=10
            )
            client.subscribe(queue)
            client.receive()
        worker.send([message(f"{turn}{part}", queue="o1", exchange="reply.celery.pidbox") for part in "ab"])
        found: list[str] = []
        while len(found) < 2:
            assert readable(client, 5)
            found += [str(read_head(payload).headers.id) for _, payload in client.receive()]
        assert found == [f"{turn}a", f"{turn}b"]
    client.close()
    assert server.exists("_kombu.binding.reply.celery.pidbox", "o1.reply.celery.pidbox") == 0


def test_a_mailbox_without_pushes(transport: RedisTransport, open_face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from framework_drivers.redis.resp import RedisConnection

    monkeypatch.setattr(RedisConnection, "watch_keys", lambda connection: False)
    replies = open_face(transport.mailbox())
    replies.subscribe(Queue(name="o1.r", exchange=Exchange(name="r"), routing_key="o1"))
    worker = open_face(transport.mailbox())
    fanout = Exchange(name="box", type="fanout")
    worker.subscribe(Queue(name="w.box", exchange=fanout))
    with pytest.raises(TransportError, match="Redis 6"):
        worker.subscribe(Queue(name="x", exchange=Exchange(name="r"), routing_key="x"))
    replies.send([message("go", queue="", exchange="box", exchange_type="fanout")])
    assert readable(worker, 5)
    ((_, payload),) = wait_for(worker.receive, 20, "the broadcast")
    assert read_head(payload).headers.id == "go"
    for number in range(2):
        worker.send([message(number, queue="o1", exchange="r")])
        assert readable(replies, 5)
        ((name, _),) = wait_for(replies.receive, 20, "the reply")
        assert name == "r"


# ---------------------------------------------------------------- trouble


def test_a_flushed_script_is_sent_again(producer: Any, consumer: Any, server: redis.Redis) -> None:
    producer.publish([message(number) for number in range(4)])
    server.script_flush()
    first, second = consumer.fetch(2)
    first.ack()
    second.reject(requeue=True)
    server.script_flush()
    assert ids(consumer.fetch(5)) == ["1", "2", "3"]
    server.script_flush()
    consumer.heartbeat()
    consumer.close(requeue=True)
    assert server.llen("work") == 3


def test_a_lost_server_is_a_lost_connection_and_nothing_else(tmp_path: Any) -> None:
    server = PrivateRedis(tmp_path / "own", persist=True)
    server.start()
    try:
        transport = RedisTransport(server.url, RedisOptions(), {})
        consumer, producer, box = transport.consumer(), transport.producer(), transport.mailbox()
        consumer.add_queue(Q)
        producer.publish([message(0), message(1)])
        consumer.fetch(1)
        server.restart()
        assert readable(consumer, 5)
        for call in (lambda: consumer.fetch(1), consumer.heartbeat, consumer.flush, box.receive):
            with pytest.raises(ConnectionLost):
                call()
        consumer.close(requeue=True)
        box.close()
        # An idle producer notices before it has sent anything, and connects again.
        producer.publish([message(2)])
        again = transport.consumer()
        again.add_queue(Q)
        assert ids(again.fetch(5)) == ["1", "2"]
        again.close(requeue=True)
        server.stop()
        with pytest.raises(ConnectionLost, match=r"cannot be reached|lost"):
            producer.publish([message(3)])
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            transport.consumer()
    finally:
        server.close()


def test_a_password_is_needed_and_never_shown(tmp_path: Any) -> None:
    server = PrivateRedis(tmp_path / "own")
    server.start()
    try:
        with server.client() as client:
            client.config_set("requirepass", "right-secret")
        for url in (f"redis://:wrong-secret@127.0.0.1:{server.port}/1", server.url):
            transport = RedisTransport(url, RedisOptions(), {})
            for make in (transport.consumer, transport.producer, transport.mailbox):
                with pytest.raises(ConnectionLost, match="login") as caught:
                    make()
                assert "secret" not in str(caught.value)
        transport = RedisTransport(f"redis://:right-secret@127.0.0.1:{server.port}/1", RedisOptions(), {})
        assert transport.sizes([Q]) == {"work": None}
        assert "secret" not in transport.display_url + str(transport.info())
        producer = transport.producer()
        producer.publish([message(0)])
        assert transport.purge(Q) == 1
        producer.close()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("policy", "warned"), [("allkeys-lru", True), ("allkeys-random", True), ("volatile-lru", False)]
)
def test_a_server_that_evicts_queues_is_named(tmp_path: Any, caplog: Any, policy: str, warned: bool) -> None:
    server = PrivateRedis(tmp_path / "own", options=("--maxmemory-policy", policy))
    server.start()
    try:
        RedisTransport(server.url, RedisOptions(), {}).consumer().close(requeue=True)
    finally:
        server.stop()
    lines = [each.getMessage() for each in caplog.records if "evicts keys" in each.getMessage()]
    assert bool(lines) == warned
    assert all(f"maxmemory-policy {policy}" in line and "noeviction" in line for line in lines)


def test_a_server_out_of_memory_takes_nothing_more_and_can_be_emptied(tmp_path: Any) -> None:
    server = PrivateRedis(tmp_path / "own")
    server.start()
    try:
        transport = RedisTransport(server.url, RedisOptions(), {})
        producer, consumer = transport.producer(), transport.consumer()
        consumer.add_queue(Q)
        producer.publish([message(number) for number in range(10)])
        with server.client() as client:
            client.config_set("maxmemory", "1mb")
            with pytest.raises(PublishRefused, match="OOM"):
                producer.publish([message(11)])
            done, back, *held = consumer.fetch(10)
            assert len(held) == 8
            done.ack()
            back.reject(requeue=True)
            consumer.heartbeat()
            # One that starts, or comes back, finds its queue bound already.
            other = transport.consumer()
            assert set(other.adopt(consumer, held)) == set(held)
            consumer.close(requeue=False)
            other.add_queue(Q)
            assert ids(other.fetch(10)) == ["1"]
            for delivery in held:
                delivery.ack()
            other.close(requeue=True)
            assert client.llen("work") == 1
            client.config_set("maxmemory", "0")
            producer.publish([message(12)])
        producer.close()
    finally:
        server.close()


def test_a_producer_is_used_by_threads_and_after_a_fork(producer: Any, server: redis.Redis) -> None:
    threads = [threading.Thread(target=lambda: [producer.publish([message()]) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert server.llen("work") == 400
    child = os.fork()
    if child == 0:
        code = 1
        try:
            producer.publish([message("child")])
            code = 0
        finally:
            os._exit(code)
    producer.publish([message("parent")])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tags = [read(payload).properties["delivery_tag"] for payload in server.lrange("work", 0, -1)]
    assert len(tags) == len(set(tags)) == 402


def test_a_redelivered_message_says_how_often(producer: Any, consumer: Any, server: redis.Redis) -> None:
    producer.publish([message(0)])
    payload = server.rpop("work")
    assert isinstance(payload, bytes)
    server.rpush("work", mark_redelivered(payload, 4))
    assert consumer.fetch(1)[0].deliveries == 4


def test_bytes_that_are_no_message_pass_through(consumer: Any, server: redis.Redis) -> None:
    server.rpush("work", b"\xff\x00 no json", b'{"deliveries": "x"}')
    found = await_fetch(consumer, 2)
    assert [delivery.payload for delivery in found] == [b'{"deliveries": "x"}', b"\xff\x00 no json"]
    assert [delivery.deliveries for delivery in found] == [0, 0]


# ---------------------------------------------------------------- URLs, options, description


@pytest.mark.parametrize(
    "table", [{"lease": 0}, {"poll_interval": 0}, {"priority_steps": []}, {"queue_order_strategy": "x"}, {"nope": 1}]
)
def test_options_are_typed(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, RedisOptions)
    assert msgspec.convert({"lease": 5, "fanout_prefix": "x{db}", "socket_timeout": None}, RedisOptions).lease == 5


@pytest.mark.acceptance(197)
def test_info_has_every_key_of_the_connection(make_transport: MakeTransport) -> None:
    info = make_transport("redis://me:secret@example.org:6380/5;redis://:secret@spare/5").info()
    assert info["hostname"] == "example.org"
    assert (info["port"], info["virtual_host"], info["userid"], info["transport"]) == (6380, "5", "me", "redis")
    wanted = (
        "connect_timeout heartbeat insist login_method ssl transport_options uri_prefix failover_strategy alternates"
    )
    assert set(wanted.split()) <= set(info)
    assert "secret" not in repr(info)


@pytest.mark.acceptance(198)
def test_a_unix_socket_is_a_server_too(tmp_path: Any) -> None:
    path = tmp_path / "redis.sock"
    server = PrivateRedis(tmp_path / "own", options=("--unixsocket", str(path)))
    server.start()
    try:
        transport = RedisTransport(f"redis+socket://{path}?virtual_host=2", RedisOptions(), {})
        assert transport.info()["uri_prefix"] == "redis"
        assert transport.info()["virtual_host"] == "2"
        producer = transport.producer()
        producer.publish([message(0)])
        producer.close()
        with server.client(2) as client:
            assert client.llen("work") == 1
    finally:
        server.close()


@pytest.mark.parametrize(
    "url", ["redis://h:port/0", "http://h/0", "redis://h/zero", "redis+socket://", "redis://h:99999/0"]
)
def test_a_wrong_url_is_one_sentence(make_transport: MakeTransport, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_transport(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://u:p@ss@h/0;redis://:p@ss@i/0", "redis://:p%40ss@h:1/0", "rediss://u:p@ss@h/1", "redis://:p@ss@h:x/0"],
)
def test_no_form_of_url_shows_its_password(make_transport: MakeTransport, url: str) -> None:
    try:
        shown = make_transport(url).display_url
    except ConfigError as error:
        shown = str(error)
    assert "p@ss" not in shown
    assert "p%40ss" not in shown


def test_a_key_prefix_covers_everything(make_transport: MakeTransport, open_face: Any, server: redis.Redis) -> None:
    transport = make_transport(global_keyprefix="app1:")
    producer, consumer = open_face(transport.producer()), open_face(transport.consumer())
    consumer.add_queue(Q)
    producer.publish([message(0), message(1, queue="work", exchange="work")])
    assert transport.sizes([Q]) == {"work": 2}
    assert len(consumer.fetch(1)) == 1
    assert all(key.startswith(b"app1:") for key in server.scan_iter())


def test_a_spare_server_is_used_when_the_first_is_away(make_transport: MakeTransport, redis_url: str) -> None:
    transport = make_transport(f"redis://127.0.0.1:1/0;{redis_url}")
    producer = transport.producer()
    producer.publish([message(0)])
    producer.close()
    assert transport.sizes([Q, OTHER]) == {"work": 1, "other": None}


# ---------------------------------------------------------------- the database in a URL


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@h/0?db=2",
        "redis://h/2?virtual_host=0",
        "rediss://h?db=1&virtual_host=2",
        "redis://h?db=1&db=2",
        "sentinel://h/1?db=2",
        "redis+socket:///run/redis.sock?virtual_host=1&db=0",
        "redis://a/1;redis://b/1?db=2",
    ],
)
def test_a_url_names_one_database(url):
    with pytest.raises(ConfigError, match=r"names the databases \d and \d: leave one of them out") as raised:
        parse(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("number", ["x", "-1", "1/2", "9" * 5000])
def test_a_database_is_a_number(number):
    for url in (f"redis://h/{number}", f"redis://h?db={number}"):
        with pytest.raises(ConfigError, match="it must be a number"):
            parse(url)


@pytest.mark.parametrize(
    "url", ["redis://h/2", "redis://h?db=2", "redis://h/2?db=2", "redis://h/02?db=2&virtual_host=2", "sentinel://h/2"]
)
def test_a_database_may_be_named_again(url):
    (address,) = parse(f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=none")
    assert (address.db, address.parameters) == (2, {"ssl_cert_reqs": "none"})
