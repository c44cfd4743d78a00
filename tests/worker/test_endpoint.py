"""The health endpoint's HTTP server against clients that are slow, many, or no HTTP clients at all."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import threading

import pytest

from framework._config.health import HealthAddress
from framework.worker.steps.health import endpoint as endpoints
from framework.worker.steps.health.answers import CannotListen, HealthSocket
from framework.worker.steps.health.endpoint import CONNECTIONS_MAX, REQUEST_MAX, Answer, Endpoint
from support.probes import connect, exchange, get, parse
from support.wait import wait_for


class Server:
    def __init__(self):
        self.errors = []
        self.body = "well\n"
        self.listener = HealthSocket(HealthAddress("127.0.0.1", 0))
        self.endpoint = Endpoint(self.listener.socket, self.answer, self.errors.append)
        self.endpoint.start()
        self.address = str(self.listener.address)

    def answer(self, path):
        if path == "/defect":
            raise RuntimeError("defect")
        return Answer(200 if path == "/" else 404, self.body)

    def close(self):
        self.endpoint.close()
        self.listener.close()


@pytest.fixture
def server():
    found = Server()
    yield found
    found.close()


@pytest.fixture
def clients():
    made = []
    yield made
    for each in made:
        each.close()


def has_ended(client):
    """Wait for the end of a connection; one that had something unread ends with a reset."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_answers(server):
    answer = get(server.address, "/?verbose")
    assert (answer.status, answer.body) == (200, "well\n")
    assert answer.headers["Content-Length"] == "5"
    assert answer.headers["Connection"] == "close"
    assert get(server.address, "/other").status == 404
    head = parse(exchange(server.address, b"HEAD / HTTP/1.0\r\n\r\n"))
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, "", "5")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 405),
        (b"\r\n\r\n", 400),
        (b"GET\n\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
        (bytes(range(256)) + b"\n\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (REQUEST_MAX + 1), 431),
        (b"x" * (20 * REQUEST_MAX), 431),
    ],
    ids=range(9),
)
def test_what_is_no_request_is_told_so(server, request_, status):
    assert parse(exchange(server.address, request_)).status == status
    assert get(server.address, "/").status == 200
    assert server.errors == []


def test_a_request_may_come_in_pieces(server):
    with connect(server.address) as client:
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n":
            client.sendall(bytes([byte]))
        assert parse(b"".join(iter(lambda: client.recv(65536), b""))).status == 200


def test_clients_that_say_nothing_keep_nobody_waiting(server, clients):
    for _ in range(CONNECTIONS_MAX + 20):
        client = connect(server.address)
        client.sendall(b"GET / HT")
        clients.append(client)
    assert get(server.address, "/").status == 200
    # The oldest had to make room.
    assert has_ended(clients[0])


def test_a_client_that_is_slow_for_too_long_is_left(server, clients, monkeypatch):
    monkeypatch.setattr(endpoints, "SECONDS", 0.2)
    clients.append(connect(server.address))
    assert has_ended(clients[0])


def test_a_client_that_does_not_read_is_left(server, clients, monkeypatch):
    monkeypatch.setattr(endpoints, "SECONDS", 0.5)
    server.body = "x" * 50_000_000
    client = connect(server.address)
    clients.append(client)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    wait_for(lambda: not server.endpoint._connections, 20, "the end of the connection")
    server.body = "well\n"
    assert get(server.address, "/").status == 200


def test_a_client_that_resets_its_connection_hurts_nobody(server):
    for _ in range(20):
        client = connect(server.address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.close()
    assert get(server.address, "/").status == 200
    assert server.errors == []


def test_a_defect_is_an_answer_and_is_reported(server):
    assert get(server.address, "/defect").status == 500
    assert [str(error) for error in server.errors] == ["defect"]
    assert get(server.address, "/").status == 200


def test_close_ends_the_thread_and_can_be_repeated(server, clients):
    clients.append(connect(server.address))
    server.endpoint.close()
    server.endpoint.close()
    assert has_ended(clients[0])
    with pytest.raises(ConnectionRefusedError):
        connect(server.address)


def test_it_goes_on_when_there_are_no_descriptors_left(server, clients):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    host, _, port = server.address.rpartition(":")
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 50, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(client.fileno()))
        client.connect((host, int(port)))
        wait_for(lambda: server.endpoint._paused_until, 20, "the endpoint to run out of descriptors")
    assert get(server.address, "/").status == 200


def test_many_at_the_same_time(server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(server.address, "/").status)) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 30


def test_an_address_that_is_not_ours_is_told():
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1:9808: .*; give this one another"):
        HealthSocket(HealthAddress("192.0.2.1", 9808))


def test_a_path_that_is_too_long_is_told(tmp_path):
    with pytest.raises(CannotListen, match="path too long"):
        HealthSocket(HealthAddress("", 0, str(tmp_path / ("x" * 200))))
