"""What the transports that need no server promise alike: `sqlite` and `memory`."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from framework.api.plugin import NoOptions
from framework.api.transport import Consumer, Delivery, Exchange, Mailbox, Producer, Queue, Transport
from framework.exceptions import ConnectionLost, PublishRefused, TransportError
from framework.message import Outgoing, read, read_head
from framework_transports.memory import MemoryTransport
from framework_transports.sqlite import SqliteOptions, SqliteTransport

CELERY = Queue(name="celery")
TOPIC = Exchange(name="media", type="topic")
PIDBOX = Exchange(name="celery.pidbox", type="fanout", durable=False)


class Bench:
    """A transport and its faces, closed after the test."""

    def __init__(self, make: Callable[[], Transport], stack: ExitStack) -> None:
        self.transport = make()
        self._make = make
        self._stack = stack

    def another_transport(self) -> Transport:
        return self._make()

    def producer(self) -> Producer:
        producer = self.transport.producer()
        self._stack.callback(producer.close)
        return producer

    def consumer(self, *queues: Queue) -> Consumer:
        consumer = self.transport.consumer()
        self._stack.callback(consumer.close, requeue=True)
        for queue in queues:
            consumer.add_queue(queue)
        return consumer

    def mailbox(self, *queues: Queue) -> Mailbox:
        mailbox = self.transport.mailbox()
        self._stack.callback(mailbox.close)
        for queue in queues:
            mailbox.subscribe(queue)
        return mailbox


@pytest.fixture(params=["sqlite", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    name = uuid4().hex

    def make() -> Transport:
        if request.param == "sqlite":
            return SqliteTransport(f"sqlite:///{tmp_path}/broker.db", SqliteOptions(), {})
        return MemoryTransport(f"memory://{name}", NoOptions(), {})

    with ExitStack() as stack:
        yield Bench(make, stack)


def message(name: object, key: str = "celery", **fields: Any) -> Outgoing:
    return Outgoing(body=b"[[], {}, {}]", headers={"task": "t", "id": str(name)}, routing_key=key, **fields)


def ids(deliveries: Any) -> list[str | None]:
    return [read_head(delivery.payload).headers.id for delivery in deliveries]


def mail(mailbox: Mailbox) -> list[tuple[str, str]]:
    return [(exchange, read(payload).body.decode()) for exchange, payload in mailbox.receive()]


def is_readable(face: Consumer | Mailbox, timeout: float = 0) -> bool:
    return bool(select.select([face], [], [], timeout)[0])


# ---------------------------------------------------------------- in and out


def test_what_goes_in_comes_out_in_order(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish([message(n) for n in range(10)])
    assert ids(consumer.fetch(4)) == ["0", "1", "2", "3"]
    assert ids(consumer.fetch(100)) == ["4", "5", "6", "7", "8", "9"]
    assert consumer.fetch(1) == []


def test_the_envelope_is_complete(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish(
        [
            Outgoing(
                body=b"\xff\x00",
                headers={"task": "t", "id": "x", "own": [1]},
                routing_key="celery",
                correlation_id="x",
                reply_to="me",
                priority=3,
            )
        ]
    )
    (delivery,) = consumer.fetch(5)
    incoming = read(delivery.payload)
    assert incoming.body == b"\xff\x00"
    assert incoming.headers == {"task": "t", "id": "x", "own": [1]}
    assert incoming.properties["reply_to"] == "me"
    assert incoming.properties["priority"] == 3
    assert incoming.properties["delivery_info"] == {"exchange": "", "routing_key": "celery"}
    assert (delivery.queue, delivery.deliveries) == ("celery", 0)


def test_a_lower_priority_number_is_served_first(bench: Bench) -> None:
    producer = bench.producer()
    consumer = bench.consumer(CELERY, Queue(name="other"))
    producer.publish([message("late", priority=9), message("default"), message("mid", priority=5)])
    producer.publish([message("other-mid", "other", priority=5), message("other-first", "other", priority=0)])
    order = ids(consumer.fetch(10))
    assert set(order[:2]) == {"default", "other-first"}
    assert set(order[2:4]) == {"mid", "other-mid"}
    assert order[4] == "late"


def test_a_full_queue_does_not_starve_another(bench: Bench) -> None:
    producer = bench.producer()
    consumer = bench.consumer(CELERY, Queue(name="other"))
    producer.publish([message(f"a{n}") for n in range(50)] + [message(f"b{n}", "other") for n in range(5)])
    queues = [delivery.queue for delivery in consumer.fetch(10)]
    assert queues.count("other") == 5
    producer.publish([message(f"c{n}", "other") for n in range(5)])
    one_by_one = [consumer.fetch(1)[0].queue for _ in range(6)]
    assert one_by_one.count("other") == 3


def test_settled_once_and_only_once(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish([message("a"), message("b"), message("c")])
    acked, dropped, returned = consumer.fetch(3)
    acked.ack()
    acked.reject(requeue=True)
    dropped.reject(requeue=False)
    returned.reject(requeue=True)
    consumer.flush()
    (again,) = consumer.fetch(10)
    assert ids([again]) == ["c"]
    again.ack()
    consumer.flush()
    assert consumer.fetch(10) == []
    consumer.close(requeue=True)
    assert bench.transport.sizes([CELERY]) == {"celery": 0}


def test_what_is_put_back_comes_first_again_and_is_counted(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish([message("a"), message("b")])
    (first,) = consumer.fetch(1)
    first.reject(requeue=True)
    again, other = consumer.fetch(5)
    assert ids([again, other]) == ["a", "b"]
    assert (again.deliveries, other.deliveries) == (1, 0)
    head = read_head(again.payload)
    assert (head.headers.redelivered, head.headers.deliveries) == (True, 1)
    again.reject(requeue=True)
    assert consumer.fetch(1)[0].deliveries == 2


def test_closing_gives_back_what_is_on_loan(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish([message(n) for n in range(3)])
    done, *_ = consumer.fetch(2)
    done.ack()
    consumer.close(requeue=True)
    consumer.close(requeue=True)
    assert ids(bench.consumer(CELERY).fetch(10)) == ["1", "2"]


def test_two_consumers_share_a_queue(bench: Bench) -> None:
    producer, one, two = bench.producer(), bench.consumer(CELERY), bench.consumer(CELERY)
    producer.publish([message(n) for n in range(6)])
    assert sorted(ids(one.fetch(3)) + ids(two.fetch(10))) == ["0", "1", "2", "3", "4", "5"]  # type: ignore[type-var]


def test_cancelled_queue_keeps_its_messages(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY, Queue(name="other"))
    consumer.cancel_queue("celery")
    producer.publish([message("a"), message("b", "other")])
    assert ids(consumer.fetch(10)) == ["b"]
    consumer.cancel_queue("other")
    assert consumer.fetch(10) == []
    assert bench.transport.sizes([CELERY]) == {"celery": 1}
    consumer.add_queue(CELERY)
    assert is_readable(consumer)
    assert ids(consumer.fetch(10)) == ["a"]


def test_threads_share_a_producer(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)

    def publish(letter: str) -> None:
        for n in range(50):
            producer.publish([message(f"{letter}{n}")])

    threads = [threading.Thread(target=publish, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ids(consumer.fetch(1000))
    assert len(found) == len(set(found)) == 200


# ---------------------------------------------------------------- routing


def test_topic_exchange(bench: Bench) -> None:
    producer = bench.producer()
    video = Queue(name="video", exchange=TOPIC, routing_key="media.video.#")
    everything = Queue(name="all", exchange=TOPIC, routing_key="media.*")
    producer.declare([video, everything])
    producer.publish([message("1", "media.video", exchange="media"), message("2", "media.audio", exchange="media")])
    producer.publish([message("3", "media.video.hd", exchange="media")])
    assert ids(bench.consumer(video).fetch(10)) == ["1", "3"]
    assert ids(bench.consumer(everything).fetch(10)) == ["1", "2"]


def test_direct_exchange_and_later_bindings(bench: Bench) -> None:
    producer = bench.producer()
    exchange = Exchange(name="d")
    one = Queue(name="one", exchange=exchange, routing_key="k")
    producer.declare([one, one])
    producer.publish([message("1", "k", exchange="d")])
    producer.declare([Queue(name="two", exchange=exchange, routing_key="k")])
    producer.publish([message("2", "k", exchange="d")])
    assert bench.transport.sizes([one, Queue(name="two"), Queue(name="none")]) == {"one": 2, "two": 1, "none": None}


def test_fanout_into_queues(bench: Bench) -> None:
    producer = bench.producer()
    exchange = Exchange(name="f", type="fanout")
    queues = [Queue(name=name, exchange=exchange) for name in ("x", "y")]
    producer.publish([message("nobody", "", exchange="f", exchange_type="fanout")])
    producer.declare(queues)
    producer.publish([message("1", "whatever", exchange="f")])
    assert bench.transport.sizes(queues) == {"x": 1, "y": 1}


def test_a_persistent_message_is_never_dropped(bench: Bench) -> None:
    producer = bench.producer()
    producer.publish([message("1", "unheard-of")])
    assert bench.transport.sizes([Queue(name="unheard-of")]) == {"unheard-of": 1}
    with pytest.raises(PublishRefused, match=r"'k'.*'nowhere'.*does not exist"):
        producer.publish([message("good"), message("2", "k", exchange="nowhere")])
    assert bench.transport.sizes([CELERY]) == {"celery": None}
    producer.publish([message("3", "gone", delivery_mode=1)])
    assert bench.transport.sizes([Queue(name="gone")]) == {"gone": None}


def test_exchange_types_must_agree(bench: Bench) -> None:
    producer = bench.producer()
    producer.declare([Queue(name="x", exchange=TOPIC, routing_key="#")])
    with pytest.raises(TransportError, match=r"'media'.*'topic'.*'fanout'"):
        producer.declare([Queue(name="x", exchange=Exchange(name="media", type="fanout"))])
    with pytest.raises(TransportError, match="x-delayed"):
        producer.declare([Queue(name="x", exchange=Exchange(name="other", type="x-delayed"))])


def test_purge_spares_loans(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish([message(n) for n in range(5)])
    (loan,) = consumer.fetch(1)
    assert bench.transport.purge(CELERY) == 4
    assert bench.transport.purge(Queue(name="none")) == 0
    loan.reject(requeue=True)
    assert ids(consumer.fetch(5)) == ["0"]


def test_auto_delete_queue_lives_as_long_as_its_consumers(bench: Bench) -> None:
    exchange = Exchange(name="b", type="fanout")
    queue = Queue(name="bcast.1", exchange=exchange, auto_delete=True)
    one, two = bench.consumer(queue), bench.consumer(queue)
    one.close(requeue=True)
    assert bench.transport.sizes([queue]) == {"bcast.1": 0}
    two.cancel_queue("bcast.1")
    assert bench.transport.sizes([queue]) == {"bcast.1": None}


# ---------------------------------------------------------------- waking


def test_a_publish_wakes_an_idle_consumer(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    assert consumer.fetch(1) == []
    assert not is_readable(consumer)
    thread = threading.Thread(target=producer.publish, args=([message("1")],))
    thread.start()
    assert is_readable(consumer, 10)
    thread.join()
    descriptor = consumer.fileno()
    assert ids(consumer.fetch(5)) == ["1"]
    assert not is_readable(consumer)
    assert consumer.fileno() == descriptor


def test_a_busy_consumer_is_not_woken(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish([message(n) for n in range(3)])
    assert len(consumer.fetch(2)) == 2
    producer.publish([message("more")])
    assert not is_readable(consumer)
    assert ids(consumer.fetch(5)) == ["2", "more"]


def test_a_worker_that_wants_nothing_now_is_not_kept_awake(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    assert consumer.fetch(1) == []
    producer.publish([message("1")])
    assert is_readable(consumer, 10)
    consumer.flush()
    assert not is_readable(consumer)
    # Nor is the call lost: it comes again.
    consumer.heartbeat()
    assert is_readable(consumer, 10)
    assert ids(consumer.fetch(1)) == ["1"]
    assert consumer.fetch(1) == []
    consumer.heartbeat()
    consumer.fetch(1)
    assert not is_readable(consumer)


def test_what_another_gives_back_wakes(bench: Bench) -> None:
    producer, one, two = bench.producer(), bench.consumer(CELERY), bench.consumer(CELERY)
    producer.publish([message("1"), message("2")])
    returned, _ = one.fetch(2)
    assert two.fetch(1) == []
    assert not is_readable(two)
    returned.reject(requeue=True)
    one.flush()
    assert is_readable(two, 10)
    assert ids(two.fetch(1)) == ["1"]
    assert two.fetch(1) == []
    one.close(requeue=True)
    assert is_readable(two, 10)
    assert ids(two.fetch(1)) == ["2"]


# ---------------------------------------------------------------- fan-out and replies


def control(name: str) -> Queue:
    return Queue(name=f"{name}.celery.pidbox", exchange=PIDBOX, exclusive=True, auto_delete=True)


def broadcast(text: str) -> Outgoing:
    return Outgoing(body=text.encode(), headers={}, exchange="celery.pidbox", exchange_type="fanout", delivery_mode=1)


@pytest.mark.acceptance(60)
def test_broadcast_reaches_every_subscriber(bench: Bench) -> None:
    one, two = bench.mailbox(control("one")), bench.mailbox(control("two"))
    assert not is_readable(one)
    bench.mailbox().send([broadcast("ping")])
    assert is_readable(one, 10)
    assert mail(one) == mail(two) == [("celery.pidbox", "ping")]
    assert mail(one) == []
    assert not is_readable(one)


def test_a_producer_broadcasts_too(bench: Bench) -> None:
    mailbox = bench.mailbox(control("one"), control("one"))
    bench.producer().publish([broadcast("a"), broadcast("b")])
    assert mail(mailbox) == [("celery.pidbox", "a"), ("celery.pidbox", "b")]


def test_replies_of_megabytes(bench: Bench) -> None:
    exchange = Exchange(name="reply.celery.pidbox", durable=False)
    client = bench.mailbox(Queue(name="me.reply.celery.pidbox", exchange=exchange, routing_key="me", exclusive=True))
    worker = bench.mailbox()
    big = "x" * 5_000_000
    worker.send([Outgoing(body=big.encode(), headers={"ticket": "t"}, exchange=exchange.name, routing_key="me")])
    worker.send([Outgoing(body=b"lost", headers={}, exchange=exchange.name, routing_key="gone")])
    worker.send([Outgoing(body=b"lost", headers={}, routing_key="no-such-reply-queue")])
    worker.send([Outgoing(body=b"direct", headers={}, routing_key="me.reply.celery.pidbox")])
    assert is_readable(client, 10)
    assert mail(client) == [(exchange.name, big), (exchange.name, "direct")]


def test_events_by_topic(bench: Bench) -> None:
    exchange = Exchange(name="celeryev", type="topic")
    tasks = bench.mailbox(Queue(name="celeryev.1", exchange=exchange, routing_key="task.#"))
    everything = bench.mailbox(Queue(name="celeryev.2", exchange=exchange, routing_key="#"))
    worker = bench.mailbox()
    for key in ("task.multi", "worker.heartbeat"):
        worker.send([Outgoing(body=json.dumps(key).encode(), headers={}, exchange="celeryev", routing_key=key)])
    assert [body for _, body in mail(tasks)] == ['"task.multi"']
    assert [body for _, body in mail(everything)] == ['"task.multi"', '"worker.heartbeat"']


def test_a_closed_mailbox_receives_nothing(bench: Bench) -> None:
    mailbox = bench.mailbox(control("one"))
    mailbox.close()
    mailbox.close()
    bench.mailbox().send([broadcast("ping")])
    with pytest.raises(ConnectionLost):
        mailbox.receive()


# ---------------------------------------------------------------- the rest of the contract


def test_closed_faces_say_so(bench: Bench) -> None:
    producer, consumer = bench.producer(), bench.consumer(CELERY)
    producer.publish([message("1")])
    (delivery,) = consumer.fetch(1)
    producer.close()
    producer.close()
    consumer.close(requeue=False)
    consumer.close(requeue=False)
    with pytest.raises(ConnectionLost):
        producer.publish([message("1")])
    with pytest.raises(ConnectionLost):
        consumer.fetch(1)
    delivery.ack()


@pytest.mark.acceptance(197)
def test_info_has_every_key(bench: Bench) -> None:
    assert set(bench.transport.info()) == {
        "connect_timeout", "heartbeat", "hostname", "insist", "login_method", "port", "ssl", "transport",
        "transport_options", "uri_prefix", "userid", "virtual_host",
    }  # fmt: skip
    json.dumps(bench.transport.info())


def test_transports_of_one_url_share_a_broker(bench: Bench) -> None:
    bench.producer().publish([message("1")])
    assert bench.another_transport().sizes([CELERY]) == {"celery": 1}


def test_deliveries_are_small(bench: Bench) -> None:
    bench.producer().publish([message("1")])
    (delivery,) = bench.consumer(CELERY).fetch(1)
    assert isinstance(delivery, Delivery)
    assert not hasattr(delivery, "__dict__")
