"""A small HTTP server for probes, in its own thread.

1. Answers while the worker's loop, or the one thread of a green pool, is frozen: it runs in a real thread also after a
   green library has patched threads, and uses nothing that such a library replaces, locks included.
2. Limits the seconds and bytes of every connection; when too many are open, it closes the oldest.
3. Supports GET and HEAD, one request a connection.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, NamedTuple

from framework.api.originals import original

#: The most connections at a time, bytes of a request, and seconds of a connection.
CONNECTIONS_MAX: Final = 64
REQUEST_MAX: Final = 8192
SECONDS: Final = 5.0
#: Seconds in which it accepts no connection after the process ran out of descriptors.
_ACCEPT_PAUSE: Final = 0.5

#: The kernel's values of POLLIN and POLLOUT: a `select` patched by a green library lacks the names.
_IN: Final = 0x001
_OUT: Final = 0x004

_PHRASES: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    body: str
    kind: str = "text/plain; charset=utf-8"


class _Connection:
    """The connection of one client."""

    __slots__ = ("answered", "deadline", "received", "sending", "socket")

    def __init__(self, socket: _socket.socket) -> None:
        socket.setblocking(False)
        self.socket = socket
        self.deadline = monotonic() + SECONDS
        self.received = b""
        self.sending = b""
        self.answered = False


class Endpoint:
    """Answers requests on `listener` from `start` to `close`."""

    def __init__(
        self, listener: _socket.socket, answer: Callable[[str], Answer], on_error: Callable[[BaseException], object]
    ) -> None:
        """`answer` is called with the path, `on_error` with an unexpected error; both in the server's thread."""
        self._listener = listener
        listener.setblocking(False)
        self._answer = answer
        self._on_error = on_error
        self._start_thread = original("_thread").start_new_thread
        self._poll = original("select").poll()
        self._connections: dict[int, _Connection] = {}
        self._stopping = False
        self._started = False
        #: Until when no connection is accepted; 0.0: accepting.
        self._paused_until = 0.0
        #: A byte sent by `close` wakes the thread; the thread closes its end when it has ended.
        self._wake_end, self._thread_end = _socket.socketpair()

    def start(self) -> None:
        """Start the thread."""
        self._poll.register(self._listener.fileno(), _IN)
        self._poll.register(self._thread_end.fileno(), _IN)
        self._started = True
        self._start_thread(self._run, ())

    def close(self) -> None:
        """Stop the thread and close all connections; harmless when repeated."""
        if self._started:
            self._started = False
            self._stopping = True
            with suppress(OSError):
                self._wake_end.send(b"\0")
                self._wake_end.settimeout(SECONDS)
                self._wake_end.recv(1)
        self._listener.close()
        self._wake_end.close()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._poll_once()
                except Exception as error:  # noqa: BLE001 - the server must answer further probes after any error
                    self._on_error(error)
                    self._drop_all()
        finally:
            self._drop_all()
            self._thread_end.close()

    def _poll_once(self) -> None:
        now = monotonic()
        deadlines = [connection.deadline for connection in self._connections.values()]
        if self._paused_until:
            deadlines.append(self._paused_until)
        # In milliseconds, plus one, so that the deadline has passed.
        timeout = max(0.0, min(deadlines) - now) * 1000 + 1 if deadlines else None
        for fd, mask in self._poll.poll(timeout):
            if fd == self._listener.fileno():
                self._accept()
            elif (connection := self._connections.get(fd)) is not None:
                self._serve(fd, connection, mask)
        now = monotonic()
        for fd in [fd for fd, connection in self._connections.items() if connection.deadline <= now]:
            self._drop(fd)
        if self._paused_until and self._paused_until <= now:
            self._paused_until = 0.0
            self._poll.register(self._listener.fileno(), _IN)

    def _accept(self) -> None:
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            # No descriptors are left: the listener would be readable again at once.
            self._poll.unregister(self._listener.fileno())
            self._paused_until = monotonic() + _ACCEPT_PAUSE
            return
        if len(self._connections) >= CONNECTIONS_MAX:
            self._drop(next(iter(self._connections)))
        self._connections[fd] = _Connection(_socket.socket(fileno=fd))
        self._poll.register(fd, _IN)

    def _drop(self, fd: int) -> None:
        connection = self._connections.pop(fd)
        self._poll.unregister(fd)
        connection.socket.close()

    def _drop_all(self) -> None:
        for fd in list(self._connections):
            self._drop(fd)

    def _serve(self, fd: int, connection: _Connection, mask: int) -> None:
        try:
            if mask & _OUT and connection.sending:
                self._send(fd, connection)
            elif not self._receive(fd, connection):
                self._drop(fd)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(fd)

    def _receive(self, fd: int, connection: _Connection) -> bool:
        """Read from the client; return False at the end of the connection."""
        data = connection.socket.recv(REQUEST_MAX)
        if not data:
            return False
        if connection.answered:
            return True  # read on: closing with unread data would reset the connection and lose the response
        connection.received += data
        head, end, _rest = connection.received.replace(b"\r\n", b"\n").partition(b"\n\n")
        if len(connection.received) > REQUEST_MAX and (not end or len(head) > REQUEST_MAX):
            answer, head_only = Answer(431, "the request is too long\n"), False
        elif not end:
            return True
        else:
            answer, head_only = self._respond(head)
        body = answer.body.encode(errors="replace")
        text = (
            f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}\r\n"
            f"Content-Type: {answer.kind}\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"{'Allow: GET, HEAD' + chr(13) + chr(10) if answer.status == 405 else ''}"
            "Cache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n\r\n"
        )
        connection.sending = text.encode() + (b"" if head_only else body)
        connection.answered = True
        connection.received = b""
        self._send(fd, connection)
        return True

    def _respond(self, head: bytes) -> tuple[Answer, bool]:
        """Return the response, and whether only its headers are sent."""
        words = head.partition(b"\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[1].startswith(b"/"):
            return Answer(400, "this is no HTTP request\n"), False
        if words[0] not in (b"GET", b"HEAD"):
            return Answer(405, "only GET and HEAD are answered\n"), False
        path = words[1].decode("latin-1").partition("?")[0]
        try:
            return self._answer(path), words[0] == b"HEAD"
        except Exception as error:  # noqa: BLE001 - as above
            self._on_error(error)
            return Answer(500, "internal error: see the worker's log\n"), False

    def _send(self, fd: int, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.sending)
        except BlockingIOError:
            sent = 0
        connection.sending = connection.sending[sent:]
        if connection.sending:
            self._poll.modify(fd, _OUT)
            return
        self._poll.modify(fd, _IN)
        connection.socket.shutdown(_socket.SHUT_WR)
