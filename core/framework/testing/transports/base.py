"""The common base of the tests of transports.

1. `TransportSuiteBase` has the attributes that an author may set, and the fixtures `broker_url` and `bench`.
2. `Bench` creates producers, consumers and mailboxes, waits on their descriptors as the loop does, and closes them.
3. `needs` skips a test unless the transport has a trait.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from framework._boot import loader
from framework.api.transport import Consumer, Delivery, Exchange, Mailbox, Producer, Queue, Transport
from framework.message import Outgoing, read, read_head
from framework.testing.wait import wait_for

#: Seconds between two heartbeats that the bench sends while it waits.
_BEAT = 0.5


def needs(*traits: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, unless the transport has all of `traits`."""
    return pytest.mark.needs_trait(*traits)


class TransportSuiteBase:
    """The attributes and fixtures of a suite. Set `transport`, and set `url` or override `broker_url`."""

    #: The transport's name, as in the scheme of a broker URL, or its class.
    transport: ClassVar[str | type[Transport]]
    #: URL of the broker.
    url: ClassVar[str] = ""
    #: The transport's options, as in its table of the config file.
    options: ClassVar[Mapping[str, Any]] = {}
    #: The broker settings that every transport gets.
    settings: ClassVar[Mapping[str, Any]] = {}
    #: Seconds after which a test stops waiting; longer than the broker needs to detect a dead client.
    patience: ClassVar[float] = 20.0
    #: Tests that the broker cannot pass: name: reason.
    excused: ClassVar[Mapping[str, str]] = {}
    #: Number of messages in the test with many messages.
    many: ClassVar[int] = 2_000

    @pytest.fixture
    def broker_url(self) -> str:
        """Return the URL of the broker; override this fixture to start a broker."""
        return self.url

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest, broker_url: str) -> Iterator[Bench]:
        """Yield the bench of the test; everything that it created is closed at the end."""
        bench = Bench(self, broker_url)
        for marker in request.node.iter_markers("needs_trait"):
            for trait in marker.args:
                if not getattr(bench.traits, trait):
                    request.node.user_properties.append(("missing trait", trait))
                    pytest.skip(f"the transport {bench.name!r} does not have the trait {trait!r}")
        if reason := self.excused.get(request.node.originalname):
            request.node.user_properties.append(("missing trait", "excused"))
            pytest.skip(f"the transport {bench.name!r} is excused: {reason}")
        with bench.opened:
            yield bench


class Bench:
    """Creates transports, producers, consumers and mailboxes for one test."""

    def __init__(self, suite: TransportSuiteBase, url: str) -> None:
        self.suite = suite
        self.url = url
        named = suite.transport
        self.name = named if isinstance(named, str) else named.__name__
        self.transport_type: type[Transport] = loader.load("transport", named) if isinstance(named, str) else named
        self.traits = self.transport_type.traits
        #: Closes everything that the bench created, the last first.
        self.opened = ExitStack()
        self.transport = self.another()

    # ------------------------------------------------------------ producers, consumers, mailboxes

    def another(self, url: str | None = None) -> Transport:
        """Return another transport to the same broker, as another process would create it."""
        options = loader.options("transport", self.name, self.transport_type, self.suite.options)
        transport = self.transport_type(url or self.url, options, dict(self.suite.settings))
        self.opened.callback(transport.close)
        return transport

    def producer(self) -> Producer:
        """Return a producer."""
        producer = self.transport.producer()
        self.opened.callback(producer.close)
        return producer

    def consumer(self, *queues: Queue) -> Consumer:
        """Return a consumer of `queues`."""
        consumer = self.transport.consumer()
        self.opened.callback(consumer.close, requeue=False)
        consumer.prefetch(10_000)
        for queue in queues:
            consumer.add_queue(queue)
        return consumer

    def mailbox(self, *queues: Queue) -> Mailbox:
        """Return a mailbox that is subscribed to `queues`."""
        mailbox = self.transport.mailbox()
        self.opened.callback(mailbox.close)
        for queue in queues:
            mailbox.subscribe(queue)
        return mailbox

    # ------------------------------------------------------------ names and messages

    def new(self, word: str = "test") -> str:
        """Return a new name that begins with `word`."""
        return f"{word}.{uuid4().hex[:12]}"

    def queue(self, **fields: Any) -> Queue:
        """Return a new queue, bound to an exchange of the same name."""
        name = fields.pop("name", None) or self.new()
        fields.setdefault("exchange", Exchange(name))
        fields.setdefault("routing_key", name)
        return Queue(name=name, **fields)

    def message(self, number: object, queue: Queue, **fields: Any) -> Outgoing:
        """Return a message to `queue` with the id `number`."""
        fields.setdefault("body", b"[[], {}, {}]")
        fields.setdefault("routing_key", queue.name)
        headers = {"task": "t", "id": str(number)}
        return Outgoing(headers=headers, correlation_id=str(number), **fields)

    def filled(self, count: int = 10, **fields: Any) -> Queue:
        """Return a new queue that contains `count` messages, numbered from 0."""
        queue = self.queue(**fields)
        producer = self.producer()
        producer.declare([queue])
        producer.publish([self.message(number, queue) for number in range(count)])
        return queue

    # ------------------------------------------------------------ waiting

    def readable(self, face: Consumer | Mailbox, timeout: float) -> bool:
        """Wait up to `timeout` seconds; return whether the descriptor of `face` is readable."""
        return bool(select.select([face.fileno()], [], [], timeout)[0])

    def gather(self, consumer: Consumer, count: int) -> list[Delivery]:
        """Fetch `count` deliveries, waiting on the descriptor as a worker's loop does."""
        found: list[Delivery] = []

        def complete() -> bool:
            found.extend(consumer.fetch(count - len(found)))
            return len(found) >= count

        self._fetch_until(consumer, complete, lambda: f"{count} deliveries, got {ids(found)[:20]}")
        return found

    def drain(self, consumer: Consumer, queue: Queue) -> list[Delivery]:
        """Publish a last message and return all deliveries from `queue` that arrive before it, or together with it."""
        last = self.new("last")
        producer = self.transport.producer()
        producer.publish([self.message(last, queue)])
        producer.close()
        found: list[Delivery] = []

        def complete() -> bool:
            found.extend(consumer.fetch(100))
            return last in ids(found)

        self._fetch_until(consumer, complete, lambda: f"the last message, got {ids(found)[:20]}")
        for delivery in found:
            if ids([delivery]) == [last]:
                delivery.ack()
        consumer.flush()
        return [delivery for delivery in found if ids([delivery]) != [last]]

    def _fetch_until(self, consumer: Consumer, complete: Callable[[], bool], what: Callable[[], str]) -> None:
        deadline = time.monotonic() + self.suite.patience
        while not complete():
            assert time.monotonic() < deadline, f"waited {self.suite.patience:g} s for {what()}"
            if not self.readable(consumer, _BEAT):
                consumer.heartbeat()

    def listen(self, mailbox: Mailbox, count: int) -> list[tuple[str, bytes]]:
        """Receive `count` or more messages; return their exchanges and bodies."""
        found: list[tuple[str, bytes]] = []
        deadline = time.monotonic() + self.suite.patience
        while True:
            found += [(exchange, read(payload).body) for exchange, payload in mailbox.receive()]
            if len(found) >= count:
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"waited for {count} messages, got {found}"
            self.readable(mailbox, min(left, _BEAT))

    def size_becomes(self, queue: Queue, number: int | None) -> None:
        """Wait until `number` messages wait in `queue`; None: until it does not exist."""
        wait_for(
            lambda: self.transport.sizes([queue]) == {queue.name: number},
            self.suite.patience,
            lambda: f"{number} messages in the queue; there are {self.transport.sizes([queue])}",
        )


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the ids of `deliveries`."""
    return [str(read_head(delivery.payload).headers.id) for delivery in deliveries]


def numbers(count: int, start: int = 0) -> list[str]:
    """Return the ids of `count` messages."""
    return [str(number) for number in range(start, start + count)]
