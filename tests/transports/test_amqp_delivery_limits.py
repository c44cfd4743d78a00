"""RabbitMQ drops messages by policy: queues with a delivery limit are named when a worker consumes from them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import msgspec
import pytest

from framework.api.transport import Queue
from framework_transports.amqp import AmqpOptions, AmqpTransport
from support.brokers import PrivateRabbit
from support.ports import free_port


def quorum(name: str, **arguments: object) -> Queue:
    return Queue(name=name, routing_key=name, queue_arguments={"x-queue-type": "quorum", **arguments})


@pytest.fixture(scope="module")
def management(module_rabbit: PrivateRabbit) -> str:
    return module_rabbit.start_management()


@pytest.fixture
def url(module_rabbit: PrivateRabbit) -> str:
    return module_rabbit.fresh_url()


@pytest.fixture
def lines(url: str, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., list[str]]]:
    """Consume from queues, twice as after a lost connection, and return what was logged as a warning."""
    made: list[AmqpTransport] = []

    def consume(*queues: Queue, management: str | None, broker: str = url) -> list[str]:
        made.append(AmqpTransport(broker, AmqpOptions(management_url=management), {}))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "framework_transports.amqp"):
            for _ in range(2):
                consumer = made[-1].consumer()
                for queue in queues:
                    consumer.add_queue(queue)
                consumer.close(requeue=True)
        return [record.getMessage() for record in caplog.records]

    yield consume
    for transport in made:
        transport.close()


@pytest.mark.parametrize("kind", ["policy", "operator_policy"])
def test_a_policy_that_drops_messages_is_named_once(
    module_rabbit: PrivateRabbit, management: str, url: str, lines: Callable[..., list[str]], kind: str
) -> None:
    vhost = urlsplit(url).path[1:]
    module_rabbit.ctl(f"set_{kind}", "-p", vhost, "poison", "^limited", '{"delivery-limit": 5}', "--apply-to", "queues")
    module_rabbit.ctl(f"set_{kind}", "-p", vhost, "weaker", "^l", '{"delivery-limit": 9}', "--priority", "-1")

    found = lines(
        quorum("limited/1"),
        quorum("limited.2", **{"x-dead-letter-exchange": "gone"}),
        quorum("free"),
        Queue(name="limited-classic", routing_key="limited-classic"),
        management=f"{management}/",
    )

    assert len(found) == 2
    lost, kept = found
    assert all(
        f"{kind.replace('_', ' ')} 'poison'" in line and "after 5 deliveries" in line and "max_deliveries" in line
        for line in found
    )
    assert "'limited/1'" in lost
    assert "they are lost" in lost
    assert "'limited.2'" in kept
    assert "to the exchange 'gone'" in kept


def test_an_api_that_cannot_be_asked_is_said_once_and_stops_nobody(lines: Callable[..., list[str]]) -> None:
    found = lines(quorum("one"), quorum("two"), management=f"http://127.0.0.1:{free_port()}")

    assert len(found) == 1
    assert all(part in found[0] for part in ("cannot be asked", "refused", "management_url"))


class Chatter(BaseHTTPRequestHandler):
    """Answers every question with a page that is no JSON."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: object) -> None:
        pass


def test_another_server_at_the_url_is_said_once(lines: Callable[..., list[str]]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Chatter) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            found = lines(quorum("one"), quorum("two"), management=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()

    assert len(found) == 1
    assert "not understood" in found[0]


def test_a_user_whom_the_api_refuses_is_named_without_the_password(
    module_rabbit: PrivateRabbit, management: str, url: str, lines: Callable[..., list[str]]
) -> None:
    vhost = urlsplit(url).path[1:]
    module_rabbit.ctl("add_user", "plain", "hushhush")
    module_rabbit.ctl("set_permissions", "-p", vhost, "plain", ".*", ".*", ".*")

    found = lines(quorum("one"), management=management, broker=url.replace("guest:guest", "plain:hushhush"))

    assert len(found) == 1
    assert all(part in found[0] for part in ("401", "'plain'"))
    assert "hushhush" not in found[0]


def test_nothing_is_asked_without_a_url(lines: Callable[..., list[str]]) -> None:
    assert lines(quorum("one"), management=None) == []


@pytest.mark.parametrize("given", ["host:15672", "ftp://host", "http://user:password@host:15672", "http://"])
def test_a_url_with_a_password_or_of_another_kind_is_refused(given: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="management_url"):
        msgspec.convert({"management_url": given}, AmqpOptions)
