"""A TCP proxy between a worker and its broker, in a thread of this process: what a bad network does, on demand.

1. `Proxy(port)` listens on a loopback port of its own; `through(url)` is a Redis or AMQP URL that leads over it.
2. `cut` breaks what is connected; `cut_after(n)` does so when `n` more bytes have passed, `cut_every(n)` after every
   `n` bytes; `forget` swallows what is sent over the present connections, which stay open.
3. `freeze` keeps connections open and passes nothing on; `slow(rate)` passes so many bytes a second; `thaw` ends both.
4. `refuse` breaks what is connected and lets nobody in until `accept`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from support.ports import free_port

#: Closing sends a reset, as a firewall or a dead machine's successor does, in place of an orderly end.
_RESET = struct.pack("ii", 1, 0)
_CHUNK = 65_536
#: Seconds between two portions of a slow connection.
_PORTION = 0.01


class _Way:
    """One direction of one connection: what was read from `source` and `sink` has not taken yet."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting = b""


class Proxy:
    """Passes connections on to `127.0.0.1:<target>`; every method returns when it has taken effect."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._links: list[tuple[_Way, _Way]] = []
        self._orders: list[tuple[Callable[[], None], threading.Event]] = []
        self._frozen = False
        #: Bytes a second in each direction of each connection; None: as fast as they come.
        self._rate: float | None = None
        #: So many bytes more until everything is cut; None: it is not.
        self._left: int | None = None
        #: What `_left` begins with again after each cut.
        self._every: int | None = None
        #: Connections over which nothing is passed on.
        self._forgotten: list[tuple[_Way, _Way]] = []
        self._closing = False
        #: Connections made and bytes passed on so far.
        self.connections = 0
        self.passed = 0
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        # Kept free for us while nobody is let in.
        self.port = free_port()
        self._listen()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def through(self, url: str) -> str:
        """Return `url` with this proxy's address in place of its broker's."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def open(self) -> int:
        """How many connections there are just now."""
        return len(self._links)

    # ------------------------------------------------------------ orders

    def cut(self, *, reset: bool = True) -> int:
        """Break every connection, with a reset or in good order; returns how many there were."""
        count = 0

        def order() -> None:
            nonlocal count
            count = len(self._links)
            self._cut(reset=reset)

        self._do(order)
        return count

    def cut_after(self, size: int) -> None:
        """Break every connection when `size` more bytes have passed, in the midst of what they belong to."""
        self._set(_left=size)

    def cut_every(self, size: int) -> None:
        """Break every connection whenever `size` more bytes have passed."""
        self._set(_left=size, _every=size)

    def forget(self) -> int:
        """Swallow what is sent over the present connections, as a router that has forgotten them; return their number.

        New connections work.
        """
        self._do(lambda: self._forgotten.extend(self._links))
        return len(self._forgotten)

    def freeze(self) -> None:
        """Pass nothing on; connections stay open, and new ones are not answered."""
        self._set(_frozen=True)

    def slow(self, rate: float) -> None:
        """Pass `rate` bytes a second on, in each direction of each connection."""
        self._set(_rate=rate)

    def thaw(self) -> None:
        """Pass on what was held back, and everything that comes, at once."""
        self._set(_frozen=False, _rate=None)

    def refuse(self) -> None:
        """Break every connection and accept none."""

        def order() -> None:
            self._deafen()
            self._cut(reset=True)

        self._do(order)

    def accept(self) -> None:
        """Let connections in again; harmless when they are."""
        self._do(lambda: self._listen() if self._listener is None else None)

    def heal(self) -> None:
        """Undo everything."""
        self._set(_frozen=False, _rate=None, _left=None, _every=None)
        self.accept()

    def close(self) -> None:
        """Break every connection, and end; harmless when it has."""
        if self._thread.is_alive():
            self._set(_closing=True)
            self._thread.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, **values: Any) -> None:
        self._do(lambda: self.__dict__.update(values))

    def _do(self, order: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((order, done))
        self._waker.send(b"!")
        if not done.wait(20):
            raise AssertionError("the proxy's thread does not answer")

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while not self._closing:
            pause = _PORTION if self._rate is not None and not self._frozen else None
            ready = {key.fileobj: events for key, events in self._selector.select(pause)}
            if self._wake in ready:
                self._obey()
                continue  # what was ready may be closed now
            if self._frozen:
                continue
            if self._listener in ready:
                self._admit()
            for link in list(self._links):
                self._pass_on(link, ready)
            self._watch()
            if self._rate is not None:
                time.sleep(_PORTION)  # connections that are full of bytes would be ready again at once
        self._deafen()
        self._cut(reset=False)
        self._selector.close()
        self._wake.close()
        self._waker.close()

    def _obey(self) -> None:
        self._wake.recv(_CHUNK)
        while self._orders:
            order, done = self._orders.pop(0)
            order()
            done.set()
        self._watch()

    def _watch(self) -> None:
        """Wait for what can be dealt with: a side that is to take more, else the other to give more."""
        wanted: dict[socket.socket, int] = {}
        if not self._frozen:
            if self._listener is not None:
                wanted[self._listener] = selectors.EVENT_READ
            for link in self._links:
                for way in link:
                    side, event = (
                        (way.sink, selectors.EVENT_WRITE) if way.waiting else (way.source, selectors.EVENT_READ)
                    )
                    wanted[side] = wanted.get(side, 0) | event
        watched = {key.fileobj: key.events for key in self._selector.get_map().values() if key.fileobj != self._wake}
        for side in watched.keys() - wanted.keys():
            self._selector.unregister(side)
        for side, events in wanted.items():
            if side not in watched:
                self._selector.register(side, events)
            elif watched[side] != events:
                self._selector.modify(side, events)

    def _admit(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        try:
            broker = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            self._drop(client, reset=True)
            return
        for side in (client, broker):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append((_Way(client, broker), _Way(broker, client)))
        self.connections += 1

    def _pass_on(self, link: tuple[_Way, _Way], ready: dict[Any, int]) -> None:
        for way in link:
            if link not in self._links:  # cut meanwhile
                return
            try:
                if not way.waiting and ready.get(way.source, 0) & selectors.EVENT_READ:
                    size = _CHUNK if self._rate is None else max(1, int(self._rate * _PORTION))
                    way.waiting = way.source.recv(size)
                    if not way.waiting:
                        self._part(link, reset=False)
                        return
                    if link in self._forgotten:
                        way.waiting = b""
                if way.waiting:
                    self._give(way)
            except BlockingIOError:
                continue
            except OSError:
                self._part(link, reset=True)
                return

    def _give(self, way: _Way) -> None:
        portion = way.waiting if self._left is None else way.waiting[: self._left]
        sent = way.sink.send(portion) if portion else 0
        way.waiting = way.waiting[sent:]
        self.passed += sent
        if self._left is not None:
            self._left -= sent
            if self._left <= 0:
                self._left = self._every
                self._cut(reset=True)

    def _cut(self, *, reset: bool) -> None:
        for link in list(self._links):
            self._part(link, reset=reset)

    def _part(self, link: tuple[_Way, _Way], *, reset: bool) -> None:
        self._links.remove(link)
        for way in link:
            self._drop(way.source, reset=reset)

    def _drop(self, side: socket.socket, *, reset: bool) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(side)
        with contextlib.suppress(OSError):
            if reset:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        side.close()

    def _listen(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(128)
        self._watch()

    def _deafen(self) -> None:
        if self._listener is not None:
            self._drop(self._listener, reset=False)
            self._listener = None
