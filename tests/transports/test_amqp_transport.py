"""The AMQP transport against a real RabbitMQ."""

from __future__ import annotations

import contextlib
import marshal
import os
import random
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import kombu
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.api.transport import Consumer, Delivery, Exchange, Mailbox, Queue
from framework.exceptions import ConfigError, ConnectionLost, PublishRefused, TransportError
from framework.message import Outgoing, as_envelope, read, read_head
from framework_transports.amqp import AmqpOptions, AmqpTransport
from framework_transports.amqp.address import addresses
from framework_transports.amqp.codec import read_content_header
from framework_transports.amqp.settlements import Settlements
from framework_transports.amqp.topology import queue_arguments
from support.brokers import PrivateRabbit
from support.wait import wait_for

BODY = b"[[1, 2], {}, {}]"


def direct(name: str, **given: object) -> Queue:
    return Queue(name=name, exchange=Exchange(name), routing_key=name, **given)  # type: ignore[arg-type]


Q = direct("q")


def message(number: int = 0, queue: str = "q", **given: object) -> Outgoing:
    given.setdefault("headers", {"task": "t", "id": f"id{number}"})
    return Outgoing(body=BODY, routing_key=queue, correlation_id=f"id{number}", **given)  # type: ignore[arg-type]


def ident(delivery: Delivery) -> str:
    return str(read_head(delivery.payload).headers.id)


def gather(consumer: Consumer, count: int, timeout: float = 15) -> list[Delivery]:
    """Take `count` deliveries as the loop does: fetch, and sleep on the descriptor only when fetch says so."""
    found: list[Delivery] = []
    deadline = time.monotonic() + timeout
    while len(found) < count:
        came = consumer.fetch(count - len(found))
        found.extend(came)
        if len(found) < count and not came:
            left = deadline - time.monotonic()
            assert left > 0, f"waited for {count} deliveries, got {len(found)}"
            select.select([consumer.fileno()], [], [], min(left, 5))
    return found


@pytest.fixture
def make(amqp_url: str) -> Iterator[Callable[..., AmqpTransport]]:
    made: list[AmqpTransport] = []

    def build(url: str = amqp_url, use: dict[str, object] | None = None, **options: object) -> AmqpTransport:
        made.append(AmqpTransport(url, AmqpOptions(**options), use or {}))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for transport in made:
        transport.close()


@pytest.fixture
def transport(make: Callable[..., AmqpTransport]) -> AmqpTransport:
    return make()


@pytest.fixture
def producer(transport: AmqpTransport):
    made = transport.producer()
    yield made
    made.close()


@pytest.fixture
def consumer(transport: AmqpTransport):
    made = transport.consumer()
    yield made
    made.close(requeue=True)


@pytest.fixture
def mailboxes(transport: AmqpTransport):
    made: list[Mailbox] = []

    def make() -> Mailbox:
        made.append(transport.mailbox())
        return made[-1]

    yield make
    for mailbox in made:
        mailbox.close()


def listen(mailbox: Mailbox, count: int) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    while len(found) < count:
        came = mailbox.receive()
        found.extend(came)
        if not came:
            assert select.select([mailbox.fileno()], [], [], 10)[0], f"waited for {count} messages, got {len(found)}"
    return found


class Relay:
    """A TCP relay in front of the broker, to be cut; with `tls` it speaks TLS to its clients."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = parts._replace(
            netloc=f"guest:guest@127.0.0.1:{self.port}", scheme="amqps" if tls else "amqp"
        ).geturl()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._tls is not None:
                try:
                    client = self._tls.wrap_socket(client, server_side=True)
                except OSError:  # it did not like our certificate
                    client.close()
                    continue
            broker = socket.create_connection(self._target)
            self._sockets += [client, broker]
            for source, sink in ((client, broker), (broker, client)):
                self._threads.append(threading.Thread(target=self._pump, args=(source, sink), daemon=True))
                self._threads[-1].start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End every connection, without a word of AMQP."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for end in self._sockets:
            end.close()


@pytest.fixture
def relay(amqp_url: str) -> Iterator[Relay]:
    made = Relay(amqp_url)
    yield made
    made.close()


# ---------------------------------------------------------------- there and back


def test_a_message_keeps_everything_it_had(producer, consumer: Consumer) -> None:
    consumer.add_queue(Q)
    headers = {
        "task": "t",
        "id": "x",
        "none": None,
        "yes": True,
        "small": -5,
        "large": 2**40,
        "float": 0.25,
        "text": "schön",
        "list": [1, None, ["a"]],
        "table": {"a": {"b": None}},
        "bytes": b"\xff\x00",
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "decimal": Decimal("1.50"),
    }
    producer.publish(
        [
            message(
                headers=headers,
                reply_to="r",
                priority=5,
                expiration=60_000,
                properties={"message_id": "m", "app_id": "a"},
            )
        ]
    )
    (one,) = gather(consumer, 1)
    incoming = read(one.payload)
    assert incoming.headers == headers | {"when": "2026-01-02T03:04:05+00:00", "decimal": "1.50"}
    assert incoming.properties == {
        "delivery_mode": 2,
        "correlation_id": "id0",
        "reply_to": "r",
        "priority": 5,
        "expiration": "60000",
        "message_id": "m",
        "app_id": "a",
        "delivery_info": {"exchange": "", "routing_key": "q", "redelivered": False},
    }
    assert (incoming.content_type, incoming.content_encoding, incoming.body) == ("application/json", "utf-8", BODY)
    assert (one.queue, one.deliveries) == ("q", 0)
    assert marshal.loads(marshal.dumps(one.payload)) == one.payload


def test_large_and_empty_bodies(producer, consumer: Consumer) -> None:
    consumer.add_queue(Q)
    bodies = [b"", os.urandom(131_072 - 8), os.urandom(131_072 - 7), os.urandom(3_000_000), b"x"]
    producer.publish([Outgoing(body=body, headers={}, routing_key="q") for body in bodies])
    assert [read(one.payload).body for one in gather(consumer, len(bodies))] == bodies


def test_twenty_thousand_in_and_out(transport: AmqpTransport, producer, consumer: Consumer) -> None:
    total, batch = 20_000, 5_000
    consumer.prefetch(512)
    consumer.add_queue(Q)
    seen: list[str] = []
    sent = 0
    while len(seen) < total:
        if sent < total and sent - len(seen) < batch:
            producer.publish([message(sent + number) for number in range(batch)])
            sent += batch
        for one in gather(consumer, 500):
            seen.append(ident(one))
            one.ack()
    consumer.close(requeue=True)
    assert seen == [f"id{number}" for number in range(total)]
    assert transport.sizes([Q]) == {"q": 0}


def test_foreign_content_types_survive(amqp_url: str, producer, consumer: Consumer) -> None:
    consumer.add_queue(Q)
    with kombu.Connection(amqp_url) as connection:
        connection.Producer().publish(
            {"a": 1}, routing_key="q", serializer="yaml", compression="gzip", headers={"task": "x"}
        )
    (one,) = gather(consumer, 1)
    incoming = read(one.payload)
    assert incoming.content_type == "application/x-yaml"
    assert incoming.headers == {"task": "x", "compression": "application/x-gzip"}


def test_kombu_consumes_what_we_send(amqp_url: str, producer) -> None:
    producer.declare([Q])
    producer.publish(
        [message(3, headers={"task": "t", "timelimit": [None, 2], "stamps": {}}, priority=4, expiration=50_000)]
    )
    with kombu.Connection(amqp_url) as connection:
        # The same declaration as ours, or RabbitMQ would refuse it.
        queue = kombu.Queue("q", kombu.Exchange("q", type="direct"), "q")(connection.channel())
        queue.declare()
        received = queue.get()
        assert received.payload == [[1, 2], {}, {}]
        assert received.headers == {"task": "t", "timelimit": [None, 2], "stamps": {}}
        assert received.properties["correlation_id"] == "id3"
        assert received.properties["priority"] == 4
        assert received.properties["expiration"] == "50000"
        assert received.properties["delivery_mode"] == 2
        received.ack()


def test_headers_nobody_can_read_are_delivered_without(amqp_url: str, producer, consumer: Consumer) -> None:
    consumer.add_queue(Q)
    deep: dict[str, object] = {}
    for _ in range(400):
        deep = {"d": deep}
    with kombu.Connection(amqp_url) as connection:
        connection.Producer().publish("bad", routing_key="q", headers=deep)
    producer.publish([message(1)])
    bad, good = gather(consumer, 2)
    head = read_head(bad.payload)
    assert head.headers.task is None
    assert "32 levels" in read(bad.payload).headers["undecodable"]
    as_envelope(bad.payload)
    bad.reject(requeue=False)
    assert ident(good) == "id1"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_header_reader(raw: bytes) -> None:
    from framework_transports.amqp.codec import MALFORMED

    with contextlib.suppress(*MALFORMED):
        read_content_header(b"\x00\x3c\x00\x00" + b"\x00" * 8 + raw)


# ---------------------------------------------------------------- settling


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_settlement_frames_settle_exactly_what_was_decided(data: st.DataObject) -> None:
    """Against a model of the broker: no frame names an unknown tag, none touches what is on loan."""
    book, outstanding, loans, decided = Settlements(), set(), [], {}
    tag = 0
    for _ in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(0, 6))):
            tag += 1
            book.add(tag)
            outstanding.add(tag)
            loans.append(tag)
        for chosen in data.draw(st.lists(st.sampled_from(loans), unique=True)) if loans else []:
            loans.remove(chosen)
            how = decided[chosen] = data.draw(st.sampled_from(["ack", "ack", "ack", "requeue", "drop"]))
            if how == "ack":
                book.ack(chosen)
            else:
                book.reject(chosen, how == "requeue")
        raw = book.frames(1)
        for start in range(0, len(raw), 21):
            method = int.from_bytes(raw[start + 9 : start + 11], "big")
            number = int.from_bytes(raw[start + 11 : start + 19], "big")
            flag = raw[start + 19]
            assert number in outstanding
            hit = {n for n in outstanding if n <= number} if method == 80 and flag else {number}
            for one in hit:
                assert decided[one] == ("ack" if method == 80 else "requeue" if flag else "drop")
            outstanding -= hit
        assert outstanding == set(loans)
        assert len(book) == len(loans)


@pytest.mark.parametrize("seed", range(4))
def test_exactly_the_unsettled_come_back(make: Callable[..., AmqpTransport], producer, seed: int) -> None:
    chance = random.Random(seed)
    consumer = make().consumer()
    consumer.prefetch(400)
    consumer.add_queue(Q)
    producer.publish([message(number) for number in range(300)])
    held = gather(consumer, 300)
    chance.shuffle(held)
    back = set()
    for position, one in enumerate(held):
        what = chance.random()
        if what < 0.6:
            one.ack()
            one.reject(requeue=True)  # settled already: nothing happens
        elif what < 0.8:
            back.add(ident(one))
        elif what < 0.9:
            back.add(ident(one))
            one.reject(requeue=True)
        else:
            one.reject(requeue=False)
        if position % 37 == 0:
            consumer.flush()
    consumer.close(requeue=True)
    again = make().consumer()
    again.prefetch(400)
    again.add_queue(Q)
    returned = gather(again, len(back))
    assert {ident(one) for one in returned} == back
    assert {one.deliveries for one in returned} == {1}
    assert again.fetch(10) == []
    again.close(requeue=True)


def test_quorum_queues_count_deliveries(make: Callable[..., AmqpTransport], producer) -> None:
    queue = direct("quorum", queue_arguments={"x-queue-type": "quorum"})
    consumer = make().consumer()
    consumer.prefetch(5)
    consumer.add_queue(queue)
    consumer.add_queue(Q)
    producer.publish([message(1, "quorum")])
    for expected in range(4):
        (one,) = gather(consumer, 1)
        assert one.deliveries == expected
        one.reject(requeue=True)
        consumer.flush()
    # Changing the limit replaces the consumer; nothing is lost by that.
    consumer.prefetch(50)
    producer.publish([message(number, "quorum") for number in range(2, 40)])
    for one in gather(consumer, 39):
        one.ack()
    consumer.close(requeue=True)


def test_quorum_queues_obey_the_limit_too(transport: AmqpTransport, producer) -> None:
    queue = direct("quorum", queue_arguments={"x-queue-type": "quorum"})
    producer.declare([queue])
    producer.publish([message(number, "quorum") for number in range(30)])
    # The second consumer knows from the first how limits are set here, and must set one all the same.
    for limit in (5, 3):
        consumer = transport.consumer()
        consumer.add_queue(Q)
        consumer.prefetch(limit)
        consumer.add_queue(queue)
        held = gather(consumer, limit)
        assert consumer.fetch(10) == []
        assert waiting(transport, "quorum") == 30 - limit
        # Acknowledged ones make room for as many.
        held[0].ack()
        held += gather(consumer, 1)
        for one in held[1:]:
            one.reject(requeue=True)
        consumer.close(requeue=True)
        producer.publish([message(0, "quorum")])
        wait_for(
            lambda: waiting(transport, "quorum") == 30, 10, lambda: f"30 to wait, {waiting(transport, 'quorum')} do"
        )


# ---------------------------------------------------------------- how much is pushed


def waiting(transport: AmqpTransport, name: str = "q") -> int:
    size = transport.sizes([direct(name)])[name]
    assert size is not None
    return size


@pytest.mark.acceptance(205)
def test_the_broker_pushes_no_more_than_the_limit(transport: AmqpTransport, producer, consumer: Consumer) -> None:
    producer.declare([Q])
    producer.publish([message(number) for number in range(100)])
    consumer.prefetch(7)
    consumer.add_queue(Q)
    held = gather(consumer, 7)
    assert consumer.fetch(10) == []
    assert waiting(transport) == 93
    consumer.prefetch(12)
    held += gather(consumer, 5)
    assert consumer.fetch(10) == []
    assert waiting(transport) == 88
    held[0].ack()
    assert len(gather(consumer, 1)) == 1
    assert waiting(transport) == 87


def test_what_exceeds_a_lowered_limit_goes_back(transport: AmqpTransport, producer, consumer: Consumer) -> None:
    producer.declare([Q])
    producer.publish([message(number) for number in range(60)])
    consumer.prefetch(50)
    consumer.add_queue(Q)
    first = gather(consumer, 1)
    consumer.prefetch(5)
    held = first + gather(consumer, 4)
    assert [ident(one) for one in held] == [f"id{number}" for number in range(5)]

    def returned() -> bool:
        # What was on its way is returned as it comes.
        assert consumer.fetch(10) == []
        return waiting(transport) == 55

    wait_for(returned, 30, lambda: f"the surplus to return: {waiting(transport)} wait")
    held[0].ack()
    assert [ident(one) for one in gather(consumer, 1)] == ["id5"]


def test_fetch_never_blocks_and_never_forgets_to_wake(producer, consumer: Consumer) -> None:
    """What came in while a declaration was waited for must still wake the loop."""
    consumer.add_queue(Q)
    assert consumer.fetch(10) == []
    producer.publish([message(1)])
    assert select.select([consumer.fileno()], [], [], 10)[0]
    # This reads the message off the socket while it waits for the broker's answers.
    consumer.add_queue(direct("other"))
    assert select.select([consumer.fileno()], [], [], 10)[0], "a message in hand, and nobody was woken"
    assert [ident(one) for one in consumer.fetch(10)] == ["id1"]


def test_priorities(amqp_url: str, producer, consumer: Consumer) -> None:
    queue = direct("prio", max_priority=10)
    producer.declare([queue])
    producer.publish([message(number, "prio", priority=number % 3) for number in range(9)])
    consumer.add_queue(queue)
    order = [int(ident(one)[2:]) % 3 for one in gather(consumer, 9)]
    assert order == sorted(order, reverse=True)


def test_cancelled_queues_send_nothing_more(transport: AmqpTransport, producer, consumer: Consumer) -> None:
    consumer.add_queue(Q)
    producer.publish([message(number) for number in range(10)])
    held = gather(consumer, 3)
    consumer.cancel_queue("q")
    consumer.cancel_queue("q")
    wait_for(lambda: waiting(transport) == 7, 30, lambda: f"7 to return, {waiting(transport)} have")
    assert consumer.fetch(10) == []
    for one in held:
        one.ack()
    consumer.add_queue(Q)
    assert len(gather(consumer, 7)) == 7


# ---------------------------------------------------------------- publishing


def test_unroutable_is_refused_by_name(producer) -> None:
    producer.declare([Q])
    with pytest.raises(PublishRefused, match=r"no queue 'nowhere'.*1 of 2 messages"):
        producer.publish([message(1), message(2, "nowhere")])
    producer.publish([message(3)])


def test_a_task_that_no_queue_takes_is_refused(producer) -> None:
    """An exchange of its own, and no queue bound for its key; what is no task may reach nobody."""
    producer.declare([direct("named"), Queue(name="t", exchange=Exchange("topics", "topic"), routing_key="a.*")])
    for exchange, kind in (("named", "direct"), ("topics", "topic")):
        lost = message(1, "missing", exchange=exchange, exchange_type=kind)
        with pytest.raises(PublishRefused, match=rf"no queue for 'missing' behind exchange '{exchange}'.*1 of 1 mess"):
            producer.publish([lost])
        producer.publish([message(1, "missing", exchange=exchange, exchange_type=kind, headers={"id": "event"})])
    with kombu.Connection(producer._session.connector.addresses[0].display.replace("**", "guest")) as connection:
        kombu.Exchange("everywhere", "fanout")(connection.channel()).declare()
    producer.publish([message(1, "", exchange="everywhere", exchange_type="fanout")])


def test_fanout_to_nobody_is_fine_and_a_missing_exchange_is_not(producer) -> None:
    producer.declare([Queue(name="t", exchange=Exchange("topics", "topic"), routing_key="a.*")])
    producer.publish([Outgoing(body=b"", headers={}, exchange="topics", routing_key="nobody", exchange_type="topic")])
    with pytest.raises(PublishRefused, match=r"no such exchange .*'missing'"):
        producer.publish([Outgoing(body=b"", headers={}, exchange="missing", routing_key="x")])
    producer.publish([Outgoing(body=b"", headers={}, exchange="topics", routing_key="a.b", exchange_type="topic")])


def test_full_queues_refuse(producer) -> None:
    queue = direct("full", max_length=2, queue_arguments={"x-overflow": "reject-publish"})
    producer.declare([queue])
    with pytest.raises(PublishRefused, match=r"refused 3 of 5 messages") as caught:
        producer.publish([message(number, "full") for number in range(5)])
    assert caught.value.refused == {2, 3, 4}
    producer.declare([Q])
    with pytest.raises(PublishRefused, match=r"no queue 'nowhere'.*2 of 5 messages") as caught:
        producer.publish([message(number, "nowhere" if number % 2 else "q") for number in range(5)])
    assert caught.value.refused == {1, 3}


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ({"id": "i", "big": 2**70}, "64 bits"),
        ({"id": "i", "what": object()}, "type object"),
        ({"id": "i", "k" * 300: 1}, "300 bytes"),
        ({"id": "i", "long": "x" * 200_000}, "headers have 200"),
    ],
)
def test_what_cannot_be_sent_refuses_the_batch(
    transport: AmqpTransport, producer, headers: dict[str, object], complaint: str
) -> None:
    producer.declare([Q])
    with pytest.raises(PublishRefused, match=complaint):
        producer.publish([message(1), message(2, headers=headers)])
    assert waiting(transport) == 0


def test_threads_share_a_producer(transport: AmqpTransport, producer) -> None:
    producer.declare([Q])
    errors: list[BaseException] = []

    def send(first: int) -> None:
        try:
            for number in range(50):
                producer.publish([message(first + number)])
        except TransportError as error:
            errors.append(error)

    threads = [threading.Thread(target=send, args=(index * 50,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert waiting(transport) == 200


def test_a_forked_child_publishes_over_a_connection_of_its_own(transport: AmqpTransport, producer) -> None:
    producer.declare([Q])
    producer.publish([message(1)])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            producer.publish([message(2)])
            producer.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    producer.publish([message(3)])
    assert waiting(transport) == 3


def test_without_confirms(make: Callable[..., AmqpTransport]) -> None:
    transport = make(confirm_publish=False)
    producer = transport.producer()
    producer.declare([Q])
    for number in range(100):
        producer.publish([message(number)])
    wait_for(lambda: waiting(transport) == 100, 30, "100 messages")
    producer.close()


def test_a_blocked_broker_is_waited_for_then_refused(
    rabbit_server: PrivateRabbit, make: Callable[..., AmqpTransport]
) -> None:
    producer = make(blocked_timeout=0.2).producer()
    producer.declare([Q])
    rabbit_server.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).")
    try:
        # The broker says that it is blocked when it is sent something; by then it may or may not take that.
        with pytest.raises(ConnectionLost, match="takes no messages"):
            producer.publish([message(1)])
        # A producer that has been told before it sends anything knows that nothing was taken.
        unconfirmed = make(blocked_timeout=0.2, confirm_publish=False).producer()

        def refused() -> bool:
            try:
                unconfirmed.publish([message(2)])
            except PublishRefused as error:
                return "takes no messages" in str(error)
            return False

        wait_for(refused, 20, "the broker to block us")
        unconfirmed.close()
    finally:
        rabbit_server.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).")
    producer.publish([message(3)])
    producer.close()


# ---------------------------------------------------------------- declarations


def test_queue_arguments_are_rabbitmqs() -> None:
    queue = direct(
        "a", expires=1.5, message_ttl=2, max_length=3, max_length_bytes=4, max_priority=5, queue_arguments={"x-mine": 1}
    )
    assert queue_arguments(queue) == {
        "x-expires": 1500,
        "x-message-ttl": 2000,
        "x-max-length": 3,
        "x-max-length-bytes": 4,
        "x-max-priority": 5,
        "x-mine": 1,
    }


def test_a_contradiction_is_explained(transport: AmqpTransport, producer, consumer: Consumer) -> None:
    producer.declare([direct("p", max_priority=10), Q])
    consumer.add_queue(Q)
    producer.publish([message(1)])
    (held,) = gather(consumer, 1)
    with pytest.raises(
        TransportError, match=r"queue 'p' exists with other properties: x-max-priority is 10 .* none was"
    ) as caught:
        consumer.add_queue(direct("p"))
    assert not isinstance(caught.value, ConnectionLost)
    with pytest.raises(TransportError, match="exchange 'q' exists with other properties: type is direct"):
        producer.declare([Queue(name="q2", exchange=Exchange("q", "topic"), routing_key="q")])
    # What is on loan survives the refusal, and so do both faces.
    held.ack()
    consumer.flush()
    producer.publish([message(2)])
    assert [ident(one) for one in gather(consumer, 1)] == ["id2"]


def test_topic_and_own_exchange_routing(producer, consumer: Consumer) -> None:
    media = Exchange("media", "topic")
    consumer.add_queue(Queue(name="video", exchange=media, routing_key="media.video.#"))
    consumer.add_queue(Queue(name="all", exchange=media, routing_key="media.*"))
    producer.publish(
        [
            Outgoing(body=b"", headers={"id": key}, exchange="media", routing_key=key, exchange_type="topic")
            for key in ("media.video", "media.audio", "media.video.x", "other")
        ]
    )
    got = sorted((one.queue, ident(one)) for one in gather(consumer, 4))
    assert got == [("all", "media.audio"), ("all", "media.video"), ("video", "media.video"), ("video", "media.video.x")]


def test_sizes_and_purge(transport: AmqpTransport, producer) -> None:
    producer.declare([Q])
    producer.publish([message(number) for number in range(5)])
    assert transport.sizes([Q, direct("none"), Q]) == {"q": 5, "none": None}
    assert transport.purge(Q) == 5
    assert transport.purge(direct("none")) == 0
    assert transport.sizes([Q]) == {"q": 0}


# ---------------------------------------------------------------- remote control's ways

PIDBOX = Exchange("celery.pidbox", "fanout", durable=False, delivery_mode=1)
REPLIES = Exchange("reply.celery.pidbox", "direct", durable=False, delivery_mode=1)


def node_queue(name: str) -> Queue:
    return Queue(
        name=f"{name}.celery.pidbox",
        exchange=PIDBOX,
        durable=False,
        exclusive=True,
        auto_delete=True,
        expires=10,
        message_ttl=300,
    )


def test_requests_fan_out_and_replies_come_back(mailboxes: Callable[[], Mailbox]) -> None:
    one, two, client = mailboxes(), mailboxes(), mailboxes()
    one.subscribe(node_queue("a@h"))
    two.subscribe(node_queue("b@h"))
    client.subscribe(
        Queue(
            name="oid.reply.celery.pidbox",
            exchange=REPLIES,
            routing_key="oid",
            durable=False,
            exclusive=True,
            auto_delete=True,
            expires=10,
        )
    )
    client.send(
        [
            Outgoing(
                body=b'{"method": "ping"}',
                headers={"clock": 1},
                exchange="celery.pidbox",
                exchange_type="fanout",
                delivery_mode=1,
            )
        ]
    )
    for node in (one, two):
        ((exchange, payload),) = listen(node, 1)
        assert exchange == "celery.pidbox"
        assert read(payload).body == b'{"method": "ping"}'  # type: ignore[arg-type]
        node.send(
            [Outgoing(body=b"{}", headers={}, exchange="reply.celery.pidbox", routing_key="oid", delivery_mode=1)]
        )
    assert [exchange for exchange, _ in listen(client, 2)] == ["reply.celery.pidbox"] * 2


def test_replies_to_nobody_vanish(mailboxes: Callable[[], Mailbox]) -> None:
    node = mailboxes()
    node.subscribe(node_queue("a@h"))
    lost = Outgoing(body=b"{}", headers={}, exchange="reply.celery.pidbox", routing_key="gone", delivery_mode=1)
    queueless = Outgoing(body=b"{}", headers={}, routing_key="no-such-queue", delivery_mode=1)
    own = Outgoing(body=b"ok", headers={}, exchange="celery.pidbox", exchange_type="fanout", delivery_mode=1)
    for _ in range(3):
        node.send([lost, queueless, own])
        ((_, payload),) = listen(node, 1)
        assert read(payload).body == b"ok"  # type: ignore[arg-type]


def test_an_exchange_that_vanishes_costs_nothing_else(amqp_url: str, mailboxes: Callable[[], Mailbox]) -> None:
    node = mailboxes()
    node.subscribe(node_queue("a@h"))
    events = Outgoing(
        body=b"{}", headers={}, exchange="celeryev", routing_key="task.multi", exchange_type="topic", delivery_mode=1
    )
    node.send([events])
    with kombu.Connection(amqp_url) as connection:
        # Made by us as Celery makes it, or this would be refused.
        kombu.Exchange("celeryev", "topic", durable=True)(connection.channel()).declare()
        connection.channel().exchange_delete("celeryev")
    node.send([events])
    own = Outgoing(body=b"ok", headers={}, exchange="celery.pidbox", exchange_type="fanout", delivery_mode=1)

    def heard() -> bool:
        node.send([own])
        return bool(select.select([node.fileno()], [], [], 1)[0] and node.receive())

    wait_for(heard, 30, "the mailbox to work again")
    node.send([events])


@pytest.mark.acceptance(12)
def test_a_second_node_of_the_same_name_listens_too(mailboxes: Callable[[], Mailbox]) -> None:
    both = [mailboxes(), mailboxes()]
    for mailbox in both:
        mailbox.subscribe(node_queue("a@h"))
    both[0].send([Outgoing(body=b"{}", headers={}, exchange=PIDBOX.name, exchange_type="fanout", delivery_mode=1)])
    assert [[name for name, _ in listen(mailbox, 1)] for mailbox in both] == [[PIDBOX.name]] * 2


@pytest.mark.acceptance(12)
def test_a_second_reader_of_a_reply_queue_is_refused(mailboxes: Callable[[], Mailbox]) -> None:
    replies = Queue(name="oid.replies", durable=False, exclusive=True, auto_delete=True)
    mailboxes().subscribe(replies)
    second = mailboxes()
    with pytest.raises(TransportError, match="another node of the same name"):
        second.subscribe(replies)


# ---------------------------------------------------------------- lost connections


def test_a_cut_connection_is_lost_everywhere(relay: Relay, make: Callable[..., AmqpTransport]) -> None:
    transport = make(relay.url)
    producer, consumer, mailbox = transport.producer(), transport.consumer(), transport.mailbox()
    consumer.add_queue(Q)
    producer.publish([message(1), message(2)])
    held = gather(consumer, 2)
    transport.sizes([Q])
    relay.cut()
    assert select.select([consumer.fileno()], [], [], 10)[0]
    with pytest.raises(ConnectionLost) as caught:
        consumer.fetch(10)
    assert ":guest@" not in str(caught.value)
    held[0].ack()
    with pytest.raises(ConnectionLost):
        consumer.flush()
    with pytest.raises(ConnectionLost):
        consumer.add_queue(direct("x"))
    consumer.close(requeue=True)
    consumer.close(requeue=True)
    assert select.select([mailbox.fileno()], [], [], 10)[0]
    with pytest.raises(ConnectionLost):
        mailbox.receive()
    with pytest.raises(ConnectionLost):
        mailbox.send([message(9)])
    mailbox.close()
    # Idle when it died, with nothing on its way: it simply connects anew.
    producer.publish([message(3)])
    assert transport.sizes([Q]) == {"q": 3}
    relay.close()
    with pytest.raises(ConnectionLost):
        producer.publish([message(4)])
    with pytest.raises(ConnectionLost):
        producer.declare([Q])
    with pytest.raises(ConnectionLost):
        transport.sizes([Q])
    away = r"^amqp://\S+ cannot be reached: connection refused \(does it run there\?\)$"
    with pytest.raises(ConnectionLost, match=away):
        transport.consumer()
    producer.close()


@pytest.mark.parametrize("arguments", [None, {"x-queue-type": "quorum"}], ids=["classic", "quorum"])
def test_a_deleted_queue_is_declared_again(
    amqp_url: str, producer, consumer: Consumer, caplog: pytest.LogCaptureFixture, arguments: dict[str, str] | None
) -> None:
    q = direct("q", queue_arguments=arguments)
    other = direct("other")
    for each in (q, other):
        consumer.add_queue(each)
    producer.publish([message(1), message(2, "other")])
    held = gather(consumer, 2)
    for _ in range(2):
        caplog.clear()
        with kombu.Connection(amqp_url) as connection:
            connection.channel().queue_delete("q")
        wait_for(lambda: consumer.fetch(1) == [] and len(_said(caplog)) == 1, 20, "the loss to be told, once")
        producer.publish([message(3), message(4, "other")])
        found = gather(consumer, 2)
        assert sorted(map(ident, found)) == ["id3", "id4"]
        held += found
    # What was on loan from the queue that is gone may still be settled, and others are not disturbed.
    for one in held:
        one.ack()
    consumer.flush()
    producer.publish([message(5)])
    assert [ident(one) for one in gather(consumer, 1)] == ["id5"]


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "consumer of queue 'q'" in text and "declared again" in text]


def test_a_queue_that_comes_back_otherwise_is_told(amqp_url: str, consumer: Consumer) -> None:
    """Somebody was quicker, and made it in another way: that is no reason to try for ever without a word."""
    consumer.add_queue(Q)
    with kombu.Connection(amqp_url) as connection:
        channel = connection.channel()
        channel.queue_delete("q")
        channel.queue_declare("q", durable=True, auto_delete=False, arguments={"x-max-priority": 3})

    def told() -> bool:
        with contextlib.suppress(ConnectionLost):
            consumer.fetch(1)
        return False

    with pytest.raises(TransportError, match="queue 'q' exists with other properties"):
        wait_for(told, 20, "an explanation")


def test_heartbeats_keep_an_idle_consumer_alive(make: Callable[..., AmqpTransport], amqp_url: str) -> None:
    consumer = make(use={"heartbeat": 1}).consumer()
    consumer.add_queue(Q)
    interval = consumer.heartbeat_interval
    assert interval == pytest.approx(1 / 3)
    beats = 0
    while beats < 12:  # four times what the broker would put up with
        if not select.select([consumer.fileno()], [], [], interval)[0]:
            consumer.heartbeat()
            beats += 1
        assert consumer.fetch(1) == []
    consumer.close(requeue=True)


def test_a_silent_broker_is_noticed(
    make: Callable[..., AmqpTransport], relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = make(relay.url, use={"heartbeat": 1}).consumer()
    consumer.add_queue(Q)
    assert consumer.fetch(1) == []
    connection = consumer._connection
    wait_for(lambda: consumer.fetch(1) == [] and not connection.readable(), 30, "silence")
    connection.last_received -= 100
    with pytest.raises(ConnectionLost, match="no heartbeat for"):
        consumer.heartbeat()
    consumer.close(requeue=True)


def test_failover_takes_the_next_address(amqp_url: str, make: Callable[..., AmqpTransport]) -> None:
    transport = make(f"amqp://guest:guest@127.0.0.1:1//;{amqp_url}")
    producer = transport.producer()
    producer.declare([Q])
    producer.publish([message(1)])
    assert transport.info()["port"] == urlsplit(amqp_url).port
    producer.close()


def test_wrong_credentials_and_virtual_hosts_are_told(amqp_url: str, make: Callable[..., AmqpTransport]) -> None:
    with pytest.raises(ConnectionLost, match="refuses the user 'guest' or the password") as caught:
        make(amqp_url.replace("guest:guest", "guest:wr0ng")).producer()
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(ConnectionLost, match="no virtual host 'nope'"):
        make(amqp_url.rpartition("/")[0] + "/nope").producer()


def test_closing_twice_and_using_closed(transport: AmqpTransport) -> None:
    consumer, mailbox, producer = transport.consumer(), transport.mailbox(), transport.producer()
    for face in (mailbox, producer):
        face.close()
        face.close()
    consumer.close(requeue=False)
    consumer.close(requeue=False)
    with pytest.raises(ConnectionLost):
        consumer.fetch(1)
    with pytest.raises(ConnectionLost):
        mailbox.receive()
    transport.close()
    transport.close()


# ---------------------------------------------------------------- TLS and addresses


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    made = tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made


def test_tls(amqp_url: str, certificate: Path, make: Callable[..., AmqpTransport]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    relay = Relay(amqp_url, context)
    try:
        with pytest.raises(ConnectionLost, match="certificate verify failed"):
            make(relay.url).producer()
        transport = make(relay.url, use={"use_ssl": {"ca_certs": str(certificate)}})
        producer, consumer = transport.producer(), transport.consumer()
        consumer.prefetch(500)
        consumer.add_queue(Q)
        producer.publish([message(number) for number in range(300)])
        producer.publish([Outgoing(body=b"x" * 300_000, headers={"id": "big"}, routing_key="q")])
        assert [ident(one) for one in gather(consumer, 301)][-1] == "big"
        producer.close()
        consumer.close(requeue=True)
        transport.close()
    finally:
        relay.close()


def test_addresses() -> None:
    one, two = addresses("amqps://u%40x:p%2f@[::1]/v%2fh;other:5", None)
    assert (one.host, one.port, one.user, one.password, one.virtual_host) == ("::1", 5671, "u@x", "p/", "v/h")
    assert one.display == "amqps://u@x:**@[::1]:5671/v/h"
    assert (two.host, two.port, two.virtual_host, bool(two.tls)) == ("other", 5, "/", True)
    assert addresses("amqp://h//", None)[0].virtual_host == "/"
    with pytest.raises(ConfigError, match="there must be a number, the port"):
        addresses("amqp://h:port/", None)


@pytest.mark.acceptance(197)
def test_info_shows_everything_but_the_password(amqp_url: str, make: Callable[..., AmqpTransport]) -> None:
    transport = make(amqp_url.replace("guest:guest", "guest:s3cret"))
    info = transport.info()
    wanted = "connect_timeout heartbeat hostname insist login_method port ssl transport transport_options uri_prefix"
    assert {*wanted.split(), "userid", "virtual_host"} <= set(info)
    assert "s3cret" not in str(info) + transport.display_url
    assert transport.display_url.startswith("amqp://guest:**@127.0.0.1:")


def test_amqp_is_imported_with_the_first_connection() -> None:
    import sys

    script = (
        "import sys; from framework_transports.amqp import AmqpTransport, AmqpOptions;"
        "t = AmqpTransport('amqp://h//', AmqpOptions(), {}); t.display_url; t.info();"
        "sys.exit(any(name in sys.modules for name in ('amqp', 'kombu')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert amqp.__version__


@pytest.mark.parametrize("place", ["name", "routing_key", "exchange"])
def test_a_declaration_with_a_name_too_long_is_one_sentence(producer, place) -> None:
    fields = {"name": "short", "exchange": "e", "routing_key": "k", place: "ü" * 128}
    with pytest.raises(TransportError, match="has 256 bytes, AMQP allows 255 in a name"):
        producer.declare([Queue(**{**fields, "exchange": Exchange(fields["exchange"])})])
    producer.declare([Queue(name="short")])
