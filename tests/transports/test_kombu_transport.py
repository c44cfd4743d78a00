"""Kombu's own transports as a broker: `filesystem` stands for all that cannot wake anybody."""

from __future__ import annotations

import marshal
import select
from pathlib import Path

import kombu
import pytest

from framework.api.transport import Consumer, Delivery, Exchange, Queue
from framework.exceptions import ConnectionLost, PluginUnavailable, TransportError
from framework.message import Outgoing, read, read_head
from framework_transports.kombu import KombuOptions, KombuTransport
from support.brokers import PrivateRedis
from support.wait import wait_for

# kombu remembers bindings for the life of the process, not of the folder: no two tests share a name.
NAME = iter(f"q{number}" for number in range(1000))


@pytest.fixture
def queue() -> Queue:
    name = next(NAME)
    return Queue(name=name, exchange=Exchange(name), routing_key=name)


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "messages").mkdir()
    (tmp_path / "control").mkdir()
    place = str(tmp_path / "messages")
    return {"data_folder_in": place, "data_folder_out": place, "control_folder": str(tmp_path / "control")}


@pytest.fixture
def transport(folder: dict[str, str]):
    made = KombuTransport("filesystem://", KombuOptions(polling_interval=0.1, transport_options=folder), {})
    yield made
    made.close()


@pytest.fixture
def consumer(transport: KombuTransport, queue: Queue):
    made = transport.consumer()
    made.add_queue(queue)
    yield made
    made.close(requeue=True)


def message(queue: Queue, number: int, **given: object) -> Outgoing:
    return Outgoing(
        body=b"[[], {}, {}]",
        headers={"task": "t", "id": f"id{number}"},
        routing_key=queue.name,
        correlation_id=f"id{number}",
        **given,  # type: ignore[arg-type]
    )


def gather(consumer: Consumer, count: int) -> list[Delivery]:
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(consumer.fetch(100))
        return len(found) >= count

    wait_for(enough, 30, lambda: f"{count} deliveries, got {len(found)}")
    return found


def test_what_goes_in_comes_out_and_is_gone(transport: KombuTransport, consumer: Consumer, queue: Queue) -> None:
    producer = transport.producer()
    producer.publish([message(queue, number, priority=3, expiration=60_000, reply_to="r") for number in range(5)])
    found = gather(consumer, 5)
    assert sorted(str(read_head(one.payload).headers.id) for one in found) == [f"id{n}" for n in range(5)]
    incoming = read(found[0].payload)
    assert incoming.body == b"[[], {}, {}]"
    assert incoming.properties["reply_to"] == "r"
    assert incoming.properties["delivery_info"]["routing_key"] == queue.name
    marshal.dumps(found[0].payload)
    for one in found:
        one.ack()
        one.ack()
    consumer.flush()
    consumer.close(requeue=True)
    assert transport.sizes([queue]) == {queue.name: 0}
    producer.close()
    producer.close()


def test_unsettled_come_back_when_the_consumer_closes(
    transport: KombuTransport, consumer: Consumer, queue: Queue
) -> None:
    producer = transport.producer()
    producer.publish([message(queue, number) for number in range(4)])
    found = gather(consumer, 4)
    found[1].ack()
    found[2].reject(requeue=False)
    kept = {str(read_head(found[index].payload).headers.id) for index in (0, 3)}
    consumer.close(requeue=True)
    again = transport.consumer()
    again.add_queue(queue)
    assert {str(read_head(one.payload).headers.id) for one in gather(again, 2)} == kept
    again.close(requeue=False)
    producer.close()


def test_an_idle_consumer_ticks_until_there_is_something(
    transport: KombuTransport, consumer: Consumer, queue: Queue
) -> None:
    assert consumer.fetch(10) == []
    for _ in range(3):
        assert select.select([consumer.fileno()], [], [], 10)[0], "the descriptor never became readable"
        assert consumer.fetch(10) == []
    producer = transport.producer()
    producer.publish([message(queue, 1)])
    producer.close()
    assert select.select([consumer.fileno()], [], [], 10)[0]
    assert len(gather(consumer, 1)) == 1


def test_kombu_peers(transport: KombuTransport, consumer: Consumer, folder: dict[str, str], queue: Queue) -> None:
    with kombu.Connection("filesystem://", transport_options=folder) as connection:
        theirs = kombu.Queue(queue.name, kombu.Exchange(queue.name), queue.name)
        connection.Producer().publish(
            {"a": 1}, exchange=theirs.exchange, routing_key=queue.name, headers={"task": "x"}, declare=[theirs]
        )
        (one,) = gather(consumer, 1)
        assert read(one.payload).headers == {"task": "x"}
        assert read(one.payload).body == b'{"a": 1}'
        one.ack()
        consumer.flush()
        producer = transport.producer()
        producer.publish([message(queue, 7)])
        producer.close()
        received = theirs(connection.channel()).get()
        assert received.headers["id"] == "id7"
        assert received.payload == [[], {}, {}]


def test_purge_and_cancel(transport: KombuTransport, consumer: Consumer, queue: Queue) -> None:
    producer = transport.producer()
    producer.declare([queue])
    producer.publish([message(queue, number) for number in range(3)])
    producer.close()
    consumer.cancel_queue(queue.name)
    assert consumer.fetch(10) == []
    assert transport.purge(queue) == 3
    assert transport.sizes([queue]) == {queue.name: 0}


def test_closed_is_lost(consumer: Consumer) -> None:
    consumer.close(requeue=True)
    consumer.close(requeue=True)
    with pytest.raises(ConnectionLost):
        consumer.fetch(1)


def test_a_missing_library_is_named() -> None:
    transport = KombuTransport("consul://localhost", KombuOptions(), {})
    with pytest.raises(PluginUnavailable, match=r"kombu\[consul\]"):
        transport.producer()


def test_no_password_is_shown() -> None:
    transport = KombuTransport("mongodb://user:secret@host/db", KombuOptions(), {})
    assert "secret" not in transport.display_url
    assert "secret" not in str(transport.info())


def test_unreachable_is_lost_without_the_password() -> None:
    transport = KombuTransport("pyamqp://user:secret@127.0.0.1:1//", KombuOptions(), {"connection_timeout": 1})
    with pytest.raises(ConnectionLost) as caught:
        transport.consumer()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "refusing", "accepting"), [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")]
)
def test_a_redis_that_takes_no_writes_refuses_for_the_moment(
    option: str, refusing: str, accepting: str, private_server, queue: Queue
) -> None:
    server = private_server(PrivateRedis)
    transport = KombuTransport(server.url, KombuOptions(), {})
    producer = transport.producer()
    with server.client() as admin:
        admin.config_set(option, refusing)
        with pytest.raises(TransportError) as caught:
            producer.publish([message(queue, 1, exchange="")])
        admin.config_set(option, accepting)
    assert caught.value.temporary
    producer.close()
    transport.close()


def test_a_full_queue_of_rabbitmq_refuses_for_the_moment(amqp_url: str) -> None:
    options = KombuOptions(transport_options={"confirm_publish": True})
    transport = KombuTransport(amqp_url.replace("amqp://", "pyamqp://"), options, {})
    full = Queue(name="full", routing_key="full", max_length=1, queue_arguments={"x-overflow": "reject-publish"})
    producer = transport.producer()
    producer.declare([full])
    producer.publish([message(full, 1)])
    with pytest.raises(TransportError) as caught:
        producer.publish([message(full, 2)])
    assert caught.value.temporary
    producer.close()
    transport.close()
