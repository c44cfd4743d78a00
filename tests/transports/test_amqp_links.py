"""Connections to RabbitMQ that are over leave nothing behind: a worker reconnects for years."""

from __future__ import annotations

import contextlib
import gc
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any
from weakref import ref

import pytest

from framework.api.transport import Exchange, Queue
from framework.exceptions import ConnectionLost, PublishRefused
from framework.message import Outgoing
from framework_transports.amqp import AmqpTransport
from support.wait import wait_for

Q = Queue(name="q", routing_key="q")
NEWS = Queue(name="news", exchange=Exchange("news", "fanout"), exclusive=True)


@pytest.fixture
def transport(amqp_url: str) -> Iterator[AmqpTransport]:
    with closing(AmqpTransport(amqp_url, AmqpTransport.options_type(), {})) as transport:
        yield transport


@pytest.fixture
def counted_only() -> Iterator[None]:
    """Nothing is found by the search for circles, which comes the less often the more a process has."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def use(transport: AmqpTransport, *, cut: bool) -> dict[str, ref[Any]]:
    """Use every face, end its connection, and return what should be gone then."""
    producer, consumer, mailbox = transport.producer(), transport.consumer(), transport.mailbox()
    producer.declare([Q])
    producer.publish([Outgoing(b"[]", {"task": "t", "id": each}, routing_key="q") for each in "ab"])
    # The broker closes the channel, and another link takes over. Not `raises`, which keeps what was raised.
    with contextlib.suppress(PublishRefused):
        producer.publish([Outgoing(b"[]", {"task": "t", "id": "c"}, exchange="nowhere", routing_key="q")])
    producer.publish([Outgoing(b"[]", {"task": "t", "id": "c"}, routing_key="q")])
    consumer.add_queue(Q)
    found: list[Any] = []

    def all_there() -> bool:
        found.extend(consumer.fetch(3))
        if len(found) < 3:
            select.select([consumer.fileno()], [], [], 0.05)
        return len(found) == 3

    wait_for(all_there, 20, "three messages")
    assert found[0].park(time.time() + 3600)
    found[1].ack()
    consumer.flush()
    mailbox.subscribe(NEWS)
    mailbox.send([Outgoing(b"", {}, exchange="news", exchange_type="fanout", routing_key="")])
    connections = {
        "consumer's": consumer._connection,  # type: ignore[attr-defined]
        "parking's": consumer._parking._connection,  # type: ignore[attr-defined]
        "mailbox's": mailbox._connection,  # type: ignore[attr-defined]
        "producer's": producer._session._connection,  # type: ignore[attr-defined]
    }
    gone = {f"the {whose} link": ref(connection) for whose, connection in connections.items()}
    gone |= {f"a channel of the {whose}": ref(connection.channels[1]) for whose, connection in connections.items()}
    gone |= {"the consumer": ref(consumer), "the mailbox": ref(mailbox), "the producer": ref(producer)}
    if cut:
        for connection in connections.values():
            connection._transport.sock.shutdown(socket.SHUT_RDWR)
        for attempt in (lambda: consumer.fetch(1), mailbox.receive):
            # What had come before is read first.
            wait_for(partial(loses, attempt), 20, "the loss to be noticed")
    consumer.close(requeue=True)
    mailbox.close()
    producer.close()
    return gone


def loses(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except ConnectionLost:
        return True
    return False


@pytest.mark.usefixtures("counted_only")
@pytest.mark.parametrize("cut", [False, True], ids=["closed", "cut"])
def test_nothing_is_left_of_a_connection(transport: AmqpTransport, cut: bool, caplog: pytest.LogCaptureFixture) -> None:
    # Records keep the errors that they tell of, and those everybody on their way.
    caplog.set_level(logging.CRITICAL, logger="framework_transports")
    gone = use(transport, cut=cut)
    assert [name for name, what in gone.items() if what() is not None] == []
