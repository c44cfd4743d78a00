"""What a consumer has on loan when its connection is lost, and the consumer that takes it over: Redis and SQLite."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from framework.api.transport import Consumer, Delivery, Exchange, Queue, Transport
from framework.exceptions import ConnectionLost, TransportError
from framework.message import Outgoing, read_head
from framework_transports.redis import RedisOptions, RedisTransport
from framework_transports.sqlite import SqliteTransport
from framework_transports.sqlite.transport import SqliteOptions
from support.brokers import PrivateRedis
from support.wait import wait_for

Q = Queue(name="work", exchange=Exchange(name="work"), routing_key="work")
OTHER = Queue(name="other", exchange=Exchange(name="other"), routing_key="other")


@pytest.fixture(params=["redis", "sqlite"])
def transport(request: pytest.FixtureRequest) -> Transport:
    url = request.getfixturevalue(f"{request.param}_url")
    if request.param == "redis":
        return RedisTransport(url, RedisOptions(), {})
    return SqliteTransport(url, SqliteOptions(), {})


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Closes at the end what it was given."""
    faces: list[Any] = []

    def remember(face: Any) -> Any:
        faces.append(face)
        return face

    yield remember
    for face in faces:
        face.close(requeue=False) if isinstance(face, Consumer) else face.close()


def send(transport: Transport, *numbers: int, queue: Queue = Q) -> None:
    producer = transport.producer()
    producer.declare([queue])
    producer.publish(
        [
            Outgoing(
                body=b"[[], {}, {}]",
                headers={"task": "t", "id": str(number)},
                routing_key=queue.name,
                exchange=queue.exchange.name,
                correlation_id=str(number),
            )
            for number in numbers
        ]
    )
    producer.close()


def ids(deliveries: Any) -> list[str]:
    return [str(read_head(delivery.payload).headers.id) for delivery in deliveries]


def fetch(consumer: Consumer, count: int) -> list[Delivery]:
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(consumer.fetch(count - len(found)))
        if len(found) < count:
            select.select([consumer.fileno()], [], [], 0.05)
        return len(found) >= count

    wait_for(enough, 20, lambda: f"{count} deliveries, there are {ids(found)}")
    return found


def cut(consumer: Any) -> None:
    """Break the connection, as the network would."""
    if hasattr(consumer, "_link"):
        with socket.socket(fileno=os.dup(consumer._connection.fileno())) as shadow:
            shadow.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionLost):
            consumer.fetch(1)


def left(transport: Transport, *queues: Queue) -> dict[str, int | None]:
    return transport.sizes(queues or (Q,))


def test_what_runs_stays_on_loan_and_the_rest_goes_back_as_it_was(transport: Transport, opened: Any) -> None:
    send(transport, *range(6))
    lost = opened(transport.consumer())
    lost.add_queue(Q)
    held = fetch(lost, 6)
    cut(lost)
    new = opened(transport.consumer())
    assert set(new.adopt(lost, [held[1], held[3]])) == {held[1], held[3]}
    lost.close(requeue=False)
    new.add_queue(Q)
    back = fetch(new, 4)
    assert ids(back) == ["0", "2", "4", "5"]
    # Given back, not tried.
    assert [delivery.deliveries for delivery in back] == [0, 0, 0, 0]
    for delivery in (held[1], *back):
        delivery.ack()
    held[3].reject(requeue=True)
    (again,) = fetch(new, 1)
    assert (ids([again]), again.deliveries) == (["3"], 1)
    again.ack()
    new.close(requeue=True)
    assert left(transport) == {"work": 0}


def test_settlements_that_could_not_be_sent_are_sent(transport: Transport, opened: Any) -> None:
    send(transport, *range(5))
    lost = opened(transport.consumer())
    lost.add_queue(Q)
    acked, dropped, back, released, held = fetch(lost, 5)
    acked.ack()
    cut(lost)
    # Nobody knows of the loss yet.
    dropped.reject(requeue=False)
    back.reject(requeue=True)
    released.release()
    new = opened(transport.consumer())
    assert list(new.adopt(lost, [held])) == [held]
    lost.close(requeue=False)
    new.add_queue(Q)
    found = fetch(new, 2)
    assert sorted(zip(ids(found), [each.deliveries for each in found], strict=True)) == [("2", 1), ("3", 0)]
    for delivery in (held, *found):
        delivery.ack()
    new.close(requeue=True)
    assert left(transport) == {"work": 0}


def test_loans_outlive_several_losses(transport: Transport, opened: Any) -> None:
    send(transport, 0, 1)
    consumer = opened(transport.consumer())
    consumer.add_queue(Q)
    held = fetch(consumer, 2)
    for _ in range(4):
        cut(consumer)
        lost, consumer = consumer, opened(transport.consumer())
        assert set(consumer.adopt(lost, held)) == set(held)
        lost.close(requeue=False)
        consumer.add_queue(Q)
        assert consumer.fetch(5) == []
        consumer.heartbeat()
    for delivery in held:
        delivery.ack()
    consumer.close(requeue=True)
    assert left(transport) == {"work": 0}


def test_a_queue_that_is_consumed_no_more_is_adopted_too(transport: Transport, opened: Any) -> None:
    send(transport, 0)
    send(transport, 1, queue=OTHER)
    lost = opened(transport.consumer())
    lost.add_queue(Q)
    lost.add_queue(OTHER)
    held = fetch(lost, 2)
    lost.cancel_queue("other")
    cut(lost)
    new = opened(transport.consumer())
    assert set(new.adopt(lost, held)) == set(held)
    lost.close(requeue=False)
    new.add_queue(Q)
    new.heartbeat()
    for delivery in held:
        delivery.ack()
    new.close(requeue=True)
    assert left(transport, Q, OTHER) == {"work": 0, "other": 0}


def test_what_others_have_taken_is_theirs(opened: Any, redis_url: str) -> None:
    patient, hasty = (RedisTransport(redis_url, RedisOptions(lease=lease), {}) for lease in (30.0, 0.1))
    send(patient, 0)
    lost = opened(hasty.consumer())
    lost.add_queue(Q)
    held = fetch(lost, 1)
    cut(lost)
    other = opened(patient.consumer())
    other.add_queue(Q)

    def taken() -> Any:
        other.heartbeat()
        return other.fetch(1)

    (theirs,) = wait_for(taken, 20, "the lease to lapse")
    new = opened(hasty.consumer())
    assert list(new.adopt(lost, held)) == []
    # A late ack of ours does not touch it.
    held[0].ack()
    new.add_queue(Q)
    new.fetch(1)
    theirs.reject(requeue=True)
    assert fetch(other, 1)[0].deliveries == 2


def test_after_the_server_was_away_everybody_has_time_to_come_back(opened: Any) -> None:
    server = PrivateRedis(persist=True)
    opened(server).start()
    transport = RedisTransport(server.url, RedisOptions(lease=0.2), {})
    send(transport, 0, 1)
    consumers = [opened(transport.consumer()) for _ in range(2)]
    for consumer in consumers:
        consumer.add_queue(Q)
    held = [fetch(consumer, 1)[0] for consumer in consumers]
    server.restart()
    for consumer in consumers:
        with pytest.raises(ConnectionLost):
            consumer.fetch(1)
    with server.client() as client:
        wait_for(
            lambda: all(
                when < 1000 * client.time()[0]
                for _, when in client.zrange("framework.leases.{work}", 0, -1, withscores=True)
            ),
            20,
            "both leases to lapse",
        )
    for lost, delivery in zip(list(consumers), held, strict=True):
        new = opened(transport.consumer())
        # A stranger who comes first leaves the other's alone, too.
        assert list(new.adopt(lost, [delivery])) == [delivery]
        lost.close(requeue=False)
        new.add_queue(Q)
        new.heartbeat()
        assert new.fetch(5) == []
        delivery.ack()
        new.flush()
    assert left(transport) == {"work": 0}


def test_a_connection_that_breaks_while_it_adopts_changes_nothing(opened: Any, redis_server: Any) -> None:
    url = redis_server.fresh_url()
    transport = RedisTransport(url, RedisOptions(), {})
    send(transport, 0, 1, 2)
    first = opened(transport.consumer())
    first.add_queue(Q)
    held, done, _free = fetch(first, 3)
    cut(first)
    done.ack()
    # The server does what it is told, and the answer is lost.
    second = opened(transport.consumer())
    connection = second._connection
    connection.run, run = _deaf(connection), connection.run
    with pytest.raises(ConnectionLost):
        second.adopt(first, [held])
    del connection.run, run
    third = opened(transport.consumer())
    adopted = [*third.adopt(first, [held]), *third.adopt(second, [held])]
    assert adopted == [held]
    for lost in (first, second):
        lost.close(requeue=False)
    third.add_queue(Q)
    assert ids(fetch(third, 1)) == ["2"]
    assert third.fetch(5) == []
    held.ack()
    third.close(requeue=True)
    assert left(transport) == {"work": 1}


def _deaf(connection: Any) -> Callable[[Any], Any]:
    run = type(connection).run

    def deaf(commands: Any) -> Any:
        run(connection, commands)
        connection.close()
        raise ConnectionLost("the answer is lost")

    return deaf


def test_another_file_in_its_place_is_left_alone(tmp_path: Path, opened: Any) -> None:
    transport = SqliteTransport(f"sqlite:///{tmp_path}/b.db", SqliteOptions(), {})
    send(transport, 0)
    lost = opened(transport.consumer())
    lost.add_queue(Q)
    held = fetch(lost, 1)
    for path in tmp_path.glob("b.db*"):
        if path.is_file():
            path.unlink()
    held[0].ack()
    with pytest.raises(TransportError):
        lost.flush()
    send(transport, 7)
    stranger = opened(SqliteTransport(transport.url, SqliteOptions(), {}).consumer())
    stranger.add_queue(Q)
    theirs = fetch(stranger, 1)
    new = opened(transport.consumer())
    # The numbers are the same: of the consumer, and of the message.
    assert (lost._id, held[0].id) == (stranger._id, theirs[0].id)
    assert list(new.adopt(lost, held)) == []
    lost.close(requeue=False)
    new.add_queue(Q)
    assert new.fetch(1) == []
    theirs[0].release()
    stranger.flush()
    assert ids(fetch(new, 1)) == ["7"]


def test_a_fanout_message_stays_with_its_task(opened: Any, redis_url: str) -> None:
    transport = RedisTransport(redis_url, RedisOptions(), {})
    queue = Queue(name="mine", exchange=Exchange(name="all", type="fanout"))
    lost = opened(transport.consumer())
    lost.add_queue(queue)
    with redis.Redis.from_url(redis_url) as client:
        payload = b'{"headers": {"task": "t", "id": "0"}, "properties": {}, "body": ""}'
        client.publish(transport._keys.channel("all", ""), payload)
    held = fetch(lost, 1)
    cut(lost)
    new = opened(transport.consumer())
    assert list(new.adopt(lost, held)) == held
    lost.close(requeue=False)
    new.add_queue(queue)
    held[0].reject(requeue=True)
    assert ids(fetch(new, 1)) == ["0"]
