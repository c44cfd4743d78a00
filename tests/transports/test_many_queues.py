"""A consumer of many queues: each queue is served, and the cost grows with the queues at most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from framework.api.transport import Consumer, Queue, Transport
from framework.message import Outgoing, read_head
from framework_transports.memory import MemoryTransport
from framework_transports.redis import RedisOptions, RedisTransport
from framework_transports.sqlite import SqliteOptions, SqliteTransport
from support.brokers import PrivateRedis

#: More than a statement of SQLite can join.
MANY = 1_500


@pytest.fixture
def server(tmp_path: Any) -> Iterator[PrivateRedis]:
    """Nobody else uses it, so its counts are the test's."""
    server = PrivateRedis(tmp_path / "own")
    server.start()
    yield server
    server.close()


@pytest.fixture(params=["memory", "redis", "sqlite"])
def transport(request: pytest.FixtureRequest, tmp_path: Any) -> Transport:
    if request.param == "memory":
        return MemoryTransport("memory://many", None, {})
    if request.param == "redis":
        return RedisTransport(request.getfixturevalue("redis_url"), RedisOptions(), {})
    return SqliteTransport(f"sqlite:///{tmp_path}/many.db", SqliteOptions(), {})


def queues(count: int) -> list[Queue]:
    return [Queue(name=f"many{number}") for number in range(count)]


def consuming(transport: Transport, count: int) -> Consumer:
    consumer = transport.consumer()
    for queue in queues(count):
        consumer.add_queue(queue)
    return consumer


def message(number: int, queue: str, priority: int = 0) -> Outgoing:
    return Outgoing(b"", headers={"task": "t", "id": str(number)}, routing_key=queue, priority=priority)


def gather(consumer: Consumer, count: int) -> list[str]:
    """Fetch and acknowledge `count` messages that are there already, some at a time."""
    found: list[str] = []
    while len(found) < count:
        batch = consumer.fetch(64)
        assert batch, f"{len(found)} of {count} came"
        for delivery in batch:
            found.append(str(read_head(delivery.payload).headers.id))
            delivery.ack()
    return found


def test_one_queue_of_many(transport: Transport) -> None:
    consumer, producer = consuming(transport, MANY), transport.producer()
    assert consumer.fetch(10) == []
    for number in (MANY - 1, 0, 700):
        producer.publish([message(number, f"many{number}")])
        assert gather(consumer, 1) == [str(number)]
    consumer.close(requeue=True)
    producer.close()


def test_all_queues_of_many(transport: Transport) -> None:
    """Each queue is served, the most urgent messages of all first."""
    consumer, producer = consuming(transport, MANY), transport.producer()
    producer.publish([message(number, f"many{number}", priority=3) for number in range(MANY)])
    producer.publish([message(MANY + number, f"many{number}") for number in range(0, MANY, 50)])
    urgent = {str(MANY + number) for number in range(0, MANY, 50)}
    found = gather(consumer, MANY + len(urgent))
    assert set(found[: len(urgent)]) == urgent
    assert sorted(found[len(urgent) :], key=int) == [str(number) for number in range(MANY)]
    assert consumer.fetch(10) == []
    consumer.close(requeue=True)
    producer.close()


def test_parked_messages_of_many(transport: Transport) -> None:
    """Due ones are delivered whatever their queue, and those that a revoke asks for are found."""
    consumer, producer = consuming(transport, MANY), transport.producer()
    producer.publish([message(number, f"many{number}") for number in (3, 700, MANY - 1)])
    early, late, last = (consumer.fetch(1)[0] for _ in range(3))
    early.park(0.0, "early")
    late.park(4e9, "late")
    last.park(4e9, "last")
    consumer.flush()
    assert gather(consumer, 1) == [str(read_head(early.payload).headers.id)]
    assert consumer.due_at is not None
    assert [delivery.queue for delivery in consumer.recall(["last"])] == [last.queue]
    consumer.close(requeue=True)
    producer.close()


# ---------------------------------------------------------------- what it costs Redis


def cost(server: PrivateRedis, count: int) -> tuple[int, int]:
    """Return the bytes and the calls, those of scripts included, that `count` queues take to be consumed."""
    with server.client() as client:
        client.flushall()
        client.config_resetstat()
        consumer = consuming(RedisTransport(server.url, RedisOptions(), {}), count)
        assert consumer.fetch(10) == []
        consumer.heartbeat()
        calls = sum(entry["calls"] for entry in client.info("commandstats").values())
        size = client.info("stats")["total_net_input_bytes"]
        consumer.close(requeue=True)
    return size, calls


def test_the_cost_grows_no_faster_than_the_queues(server: PrivateRedis) -> None:
    (small_size, small_calls), (great_size, great_calls) = cost(server, 50), cost(server, 200)
    assert great_size < 6 * small_size
    assert great_calls < 6 * small_calls


def test_queues_that_are_empty_cost_nothing(server: PrivateRedis) -> None:
    transport = RedisTransport(server.url, RedisOptions(), {})
    consumer, producer = consuming(transport, 100), transport.producer()
    assert consumer.fetch(10) == []
    producer.publish([message(number, "many7") for number in range(60)])
    with server.client() as client:
        client.config_resetstat()
        for _ in range(6):
            assert len(consumer.fetch(10)) == 10
        lists = 4
        assert client.info("commandstats")["cmdstat_llen"]["calls"] == 6 * lists
    consumer.close(requeue=True)
    producer.close()
