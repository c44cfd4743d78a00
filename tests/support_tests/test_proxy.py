"""The proxy does to connections what it is told to, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import amqp
import pytest
import redis

from framework.client.app import App
from support.proxy import Proxy
from support.wait import wait_for

#: Seconds; a silence is shown by waiting for so long in vain.
SILENCE = 0.2
LONG = 20.0


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                side, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(side,), daemon=True))
                self._threads[-1].start()

    def _serve(self, side: socket.socket) -> None:
        with side, contextlib.suppress(OSError):
            while data := side.recv(65_536):
                side.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(LONG)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as made:
        yield made


@pytest.fixture
def connect(proxy: Proxy) -> Iterator:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), LONG))


def read(side: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := side.recv(size - len(data))):
        data += more
    return data


def is_silent(side: socket.socket) -> bool:
    side.settimeout(SILENCE)
    try:
        return side.recv(1) is None
    except TimeoutError:
        return True
    finally:
        side.settimeout(LONG)


def test_it_passes_everything_on(connect, proxy):
    sides = [connect() for _ in range(3)]
    data = bytes(range(256)) * 8000
    writers = [threading.Thread(target=side.sendall, args=(data,)) for side in sides]
    for writer in writers:
        writer.start()
    assert [read(side, len(data)) == data for side in sides] == [True] * 3
    for writer in writers:
        writer.join(LONG)
    assert proxy.connections == proxy.open == 3
    wait_for(lambda: proxy.passed == 6 * len(data), LONG, "both ways of everything to be counted")


def test_a_cut_breaks_what_is_connected_and_nothing_else(connect, proxy):
    for reset in (True, False):
        side = connect()
        side.sendall(b"a")
        assert read(side, 1) == b"a"
        assert proxy.cut(reset=reset) == 1
        if reset:
            with pytest.raises(ConnectionResetError):
                side.recv(1)
        else:
            assert side.recv(1) == b""
    again = connect()
    again.sendall(b"b")
    assert read(again, 1) == b"b"


def test_a_cut_comes_after_so_many_bytes(connect, proxy):
    side = connect()
    side.sendall(b"x")
    assert read(side, 1) == b"x"
    wait_for(lambda: proxy.passed == 2, LONG, "both bytes to be counted")
    proxy.cut_after(105)
    side.sendall(b"y" * 100)
    # A reset may overtake what came before it.
    with contextlib.suppress(ConnectionResetError):
        assert len(read(side, 100)) <= 5
    wait_for(lambda: proxy.open == 0, LONG, "the cut")
    assert proxy.passed == 107


def test_what_is_frozen_is_not_lost(connect, proxy):
    side = connect()
    side.sendall(b"a")
    assert read(side, 1) == b"a"
    proxy.freeze()
    side.sendall(b"b")
    other = connect()  # the kernel lets it in
    other.sendall(b"c")
    assert is_silent(side)
    assert is_silent(other)
    proxy.thaw()
    assert (read(side, 1), read(other, 1)) == (b"b", b"c")


def test_slow_is_slow_and_whole(connect, proxy):
    side = connect()
    proxy.slow(100)
    data = bytes(range(250)) * 40  # a hundred seconds' worth
    side.sendall(data)
    assert read(side, 3) == data[:3]
    assert proxy.passed < len(data)
    proxy.thaw()
    assert read(side, len(data) - 3) == data[3:]


def test_who_is_refused_is_told_so(connect, proxy):
    side = connect()
    side.sendall(b"a")
    assert read(side, 1) == b"a"
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        side.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.accept()
    proxy.accept()
    again = connect()
    again.sendall(b"b")
    assert read(again, 1) == b"b"


def test_healing_undoes_all(connect, proxy):
    proxy.freeze()
    proxy.slow(1)
    proxy.cut_after(1)
    proxy.refuse()
    proxy.heal()
    side = connect()
    side.sendall(b"abc" * 1000)
    assert len(read(side, 3000)) == 3000


def test_a_broker_that_is_away_is_a_broken_connection(connect, echo, proxy):
    echo.close()
    # Whether the end is seen while connecting or afterwards is up to the system.
    with contextlib.suppress(ConnectionResetError):
        assert connect().recv(1) == b""
    wait_for(lambda: proxy.open == 0, 20, "the connection to be gone")


def test_nothing_is_left_when_it_is_closed(connect, proxy):
    side = connect()
    side.sendall(b"a")
    assert read(side, 1) == b"a"
    proxy.freeze()
    proxy.close()
    proxy.close()
    assert side.recv(1) == b""
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]


def test_redis_over_it(redis_server):
    url = redis_server.fresh_url()
    with Proxy(redis_server.port) as proxy, redis.Redis.from_url(proxy.through(url)) as there:
        there.set("key", "value")
        with redis.Redis.from_url(url) as here:
            assert here.get("key") == b"value"
        assert proxy.connections == 1


def test_amqp_over_it(rabbit_server):
    url = rabbit_server.fresh_url()
    with Proxy(rabbit_server.port) as proxy:
        led = proxy.through(url)
        assert led == url.replace(str(rabbit_server.port), str(proxy.port))
        app = App("proxied", broker=led)
        try:
            app.send_task("proj.add", (1, 2))
        finally:
            app.close()
        with amqp.Connection(
            f"127.0.0.1:{rabbit_server.port}", "guest", "guest", virtual_host=url.rpartition("/")[2]
        ) as behind:
            behind.connect()
            assert behind.channel().queue_declare("celery", passive=True).message_count == 1
        assert proxy.connections >= 1
