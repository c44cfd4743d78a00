"""What is particular to the `memory` transport."""

from __future__ import annotations

import gc
from uuid import uuid4

from framework.api.plugin import NoOptions
from framework.api.transport import Exchange, Queue
from framework.message import Outgoing
from framework_transports.memory import MemoryTransport

CELERY = Queue(name="celery")


def make(name: str) -> MemoryTransport:
    return MemoryTransport(f"memory://{name}", NoOptions(), {})


def message() -> Outgoing:
    return Outgoing(body=b"[]", headers={"task": "t", "id": "1"}, routing_key="celery")


def test_names_are_brokers_of_their_own() -> None:
    one, other = make(uuid4().hex), make(uuid4().hex)
    one.producer().publish([message()])
    assert one.sizes([CELERY]) == {"celery": 1}
    assert other.sizes([CELERY]) == {"celery": None}


def test_a_broker_nobody_uses_is_forgotten() -> None:
    name = uuid4().hex
    producer = make(name).producer()
    producer.publish([message()])
    assert make(name).sizes([CELERY]) == {"celery": 1}
    producer.close()
    del producer
    gc.collect()
    assert make(name).sizes([CELERY]) == {"celery": None}


def test_a_dropped_subscriber_gathers_nothing() -> None:
    transport = make(uuid4().hex)
    exchange = Exchange(name="f", type="fanout")
    mailbox = transport.mailbox()
    mailbox.subscribe(Queue(name="x", exchange=exchange))
    mailbox.close()
    transport.producer().publish([Outgoing(body=b"", headers={}, exchange="f", exchange_type="fanout")])
    assert not mailbox.arrived


def test_it_says_that_it_is_not_shared() -> None:
    assert not MemoryTransport.traits.shared
