"""One connection to an AMQP broker.

1. py-amqp does the handshake and all rarely used methods; it reads and writes through this class.
2. Reads the socket in large chunks and parses frames itself. py-amqp reads 7 bytes, then the payload, then the last
   byte: nine system calls a message.
3. Passes content (deliveries, returned messages), confirms and the broker's cancellations to its owner's callbacks.
4. Raises `ChannelClosed` for a channel closed by the broker, and one of `LOST` for a broken connection; `lost` makes a
   `ConnectionLost` of either.
5. Drops all references when it is closed, so that no reference cycle is left to the garbage collector.
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
from collections.abc import Callable
from struct import Struct
from time import monotonic
from typing import Any, Final, TypeAlias
from weakref import WeakSet, ref

from amqp import Channel, Connection
from amqp.exceptions import AMQPError

from framework.exceptions import ConnectionLost
from framework_transports.amqp.address import AmqpAddress
from framework_transports.amqp.codec import FRAME_END, HEARTBEAT_FRAME, method_frame

#: Errors that a dead connection may raise.
LOST: Final = (OSError, AMQPError)

#: Bytes of one recv: a hundred small tasks, or one frame of the usual maximum.
CHUNK: Final = 131_072
#: Seconds without a reply, or without space in the socket's buffer, after which the broker counts as lost.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds for the closing handshake.
CLOSE_TIMEOUT: Final = 3.0

DELIVER: Final = 60 << 16 | 60
RETURN: Final = 60 << 16 | 50
_ACK: Final = 60 << 16 | 80
_NACK: Final = 60 << 16 | 120
_CANCEL: Final = 60 << 16 | 30
_CHANNEL_CLOSE: Final = 20 << 16 | 40

_frame = Struct(">BHI").unpack_from
_u16 = Struct(">H").unpack_from
_u32 = Struct(">I").unpack_from
_u64 = Struct(">Q").unpack_from
_u64_u8 = Struct(">QB").unpack_from

#: ``(consumer tag, delivery tag, redelivered, exchange, routing key, content header, body)``
Delivered: TypeAlias = tuple[bytes, int, int, bytes, bytes, bytes, bytes]
#: ``(reply code, reply text, exchange, routing key, content header, body)``
Returned: TypeAlias = tuple[int, str, bytes, bytes, bytes, bytes]


class ChannelClosed(Exception):
    """The broker closed a channel because it refused a request."""

    def __init__(self, channel: int, code: int, text: str) -> None:
        super().__init__(text)
        self.channel = channel
        self.code = code
        self.text = text


class AmqpConnection(Connection):  # type: ignore[misc]
    """One connection. Not thread-safe: its owner is a loop, or holds a lock."""

    #: py-amqp's transport, with the socket; None once closed.
    _transport: Any
    #: The open channels by number, and this connection as number 0; None once closed.
    channels: Any

    def __init__(self, address: AmqpAddress, *, role: str, heartbeat: int, timeout: float, login_method: str) -> None:
        options = {}
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # py-amqp's default is one second: a broker's garbage collection would count as a loss.
            options[socket.TCP_USER_TIMEOUT] = int(ANSWER_TIMEOUT * 1000)
        super().__init__(
            host=address.host_port,
            userid=address.user,
            password=address.password,
            login_method=login_method,
            virtual_host=address.virtual_host,
            ssl=address.tls,
            connect_timeout=timeout,
            heartbeat=heartbeat,
            client_properties={"product": "framework", "connection_name": f"framework {role} {os.getpid()}"},
            on_blocked=self._on_block,
            on_unblocked=self._on_unblock,
            socket_settings=options,
            frame_writer=_method_writer,
        )
        self.address = address
        self.pid = os.getpid()
        #: Why the broker accepts no messages at present; "" when it accepts them.
        self.blocked = ""
        self.blocked_at = 0.0
        self.last_received = monotonic()
        #: Seconds to wait for a reply when py-amqp sets no limit.
        self.answer_timeout = ANSWER_TIMEOUT
        self.on_delivery: Callable[[Delivered], object] = _ignore
        self.on_return: Callable[[Returned], object] = _ignore
        self.on_confirm: Callable[[int, bool, bool], object] = _ignore
        self.on_cancel: Callable[[bytes], object] = _ignore
        #: Called with a `ChannelClosed`; returns True if it has handled it, else the error is raised.
        self.on_channel_closed: Callable[[ChannelClosed], bool] = _not_handled
        self._buffer = b""
        #: All living channels, closed or not.
        self._opened: WeakSet[Channel] = WeakSet()
        #: The end of the closing handshake; None before it.
        self._close_until: float | None = None
        #: Content whose header or body has not arrived completely, by channel.
        self._partial: dict[int, list[Any]] = {}

    # ------------------------------------------------------------ reading

    def blocking_read(self, timeout: float | None = None) -> bool:
        """Read at least one frame; py-amqp calls this while it waits for a reply."""
        if self.take_frames():
            return True
        if timeout is None:
            timeout = self.answer_timeout
        if self._close_until is not None:
            # A frozen broker must not delay closing. 0 would mean not to wait.
            timeout = max(0.001, min(timeout, self._close_until - monotonic()))
        if not self.receive(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s")
        return self.take_frames()

    def receive(self, timeout: float) -> int:
        """Read once into the buffer, waiting up to `timeout` seconds; return the number of bytes."""
        if self._transport is None or self._transport.sock is None:
            raise ConnectionResetError("the connection is closed")
        sock = self._transport.sock
        sock.settimeout(timeout)
        try:
            chunk = sock.recv(CHUNK)
        except (TimeoutError, BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return 0
        finally:
            if timeout != ANSWER_TIMEOUT:
                sock.settimeout(ANSWER_TIMEOUT)
        if not chunk:
            raise ConnectionResetError("the broker closed the connection")
        self._buffer = self._buffer + chunk if self._buffer else chunk
        self.last_received = monotonic()
        return len(chunk)

    def advance(self) -> bool:
        """Read and process available frames, without waiting; return whether there may be more."""
        self.take_frames()
        count = self.receive(0)
        if count:
            self.take_frames()
        # A short read has emptied the kernel's buffer, but the TLS library's buffer may hold another record.
        return count == CHUNK or (count > 0 and bool(self.address.tls))

    def take_frames(self) -> bool:
        """Process every complete frame in the buffer; return whether there was one."""
        buf = self._buffer
        size = len(buf)
        at = 0
        try:
            while size - at >= 8:
                kind, channel, length = _frame(buf, at)
                start = at + 7
                end = start + length
                if end >= size:
                    break
                if buf[end] != FRAME_END:
                    raise ConnectionResetError("the broker sent bytes that are not AMQP")
                at = end + 1
                if kind == 1:
                    method = _u32(buf, start)[0]
                    if method == DELIVER:
                        self._partial[channel] = [method, _delivery_arguments(buf, start + 4), None, 0, []]
                    else:
                        self._on_method(channel, method, buf[start:end])
                elif kind == 2:
                    partial = self._partial[channel]
                    partial[2] = buf[start:end]
                    partial[3] = _u64(buf, start + 4)[0]
                    if not partial[3]:
                        self._on_content(channel, partial, b"")
                elif kind == 3:
                    partial = self._partial[channel]
                    partial[3] -= length
                    if partial[3] > 0:
                        partial[4].append(buf[start:end])
                    elif partial[4]:
                        self._on_content(channel, partial, b"".join((*partial[4], buf[start:end])))
                    else:
                        self._on_content(channel, partial, buf[start:end])
        finally:
            if at:
                self._buffer = buf[at:]
        self.bytes_recv += at
        return at > 0

    def _on_content(self, channel: int, partial: list[Any], body: bytes) -> None:
        del self._partial[channel]
        method, arguments, header = partial[:3]
        if method == DELIVER:
            self.on_delivery((*arguments, header, body))
        else:
            self.on_return((*arguments, header, body))

    def _on_method(self, channel: int, method: int, payload: bytes) -> None:
        if method in (_ACK, _NACK):
            tag, bits = _u64_u8(payload, 4)
            self.on_confirm(tag, bool(bits & 1), method == _NACK)
        elif method == RETURN:
            code = _u16(payload, 4)[0]
            text, at = _short(payload, 6)
            exchange, at = _short(payload, at)
            routing_key, _ = _short(payload, at)
            self._partial[channel] = [method, (code, text.decode(errors="replace"), exchange, routing_key), None, 0, []]
        elif method == _CANCEL:
            self.on_cancel(_short(payload, 4)[0])
        elif method == _CHANNEL_CLOSE:
            self._on_channel_close(channel, payload)
        else:
            self.on_inbound_method(channel, (method >> 16, method & 0xFFFF), payload, None)

    def _on_channel_close(self, channel: int, payload: bytes) -> None:
        self.write(method_frame(channel, 20, 41, b""))
        self._partial.pop(channel, None)
        known = self.channels.get(channel)
        # py-amqp's own handler would reopen the channel, and wait for the reply in the middle of this read.
        if known is not None:
            known.collect()
        closed = ChannelClosed(channel, _u16(payload, 4)[0], _short(payload, 6)[0].decode(errors="replace"))
        if not self.on_channel_closed(closed):
            try:
                raise closed
            finally:
                del closed  # its traceback refers to this frame: a reference cycle

    def _on_block(self, reason: str) -> None:
        self.blocked = reason or "it is short of memory or disk"
        self.blocked_at = monotonic()

    def _on_unblock(self) -> None:
        self.blocked = ""

    # ------------------------------------------------------------ writing

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        if self._transport is None or self._transport.sock is None:
            raise ConnectionResetError("the connection is closed")
        self._transport.sock.settimeout(ANSWER_TIMEOUT)
        self._transport.sock.sendall(data)
        self.bytes_sent += len(data)

    def write_while_reading(self, data: bytes) -> None:
        """Send `data` and process incoming frames meanwhile, because a broker with unread replies may stop reading.

        Raises `TimeoutError` when the broker reads nothing for `answer_timeout` seconds.
        """
        sock = self._transport.sock
        rest = memoryview(data)
        last = monotonic()
        sock.settimeout(0)
        try:
            while rest:
                try:
                    rest = rest[sock.send(rest) :]
                    last = monotonic()
                    continue
                except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    pass
                if monotonic() - last > self.answer_timeout:
                    raise TimeoutError(f"the broker read nothing for {self.answer_timeout:g} s {self.blocked}".rstrip())
                if self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE, 1.0) & selectors.EVENT_READ:
                    self.advance()
                    sock.settimeout(0)
        finally:
            if self._transport is not None and self._transport.sock is not None:
                sock.settimeout(ANSWER_TIMEOUT)
        self.bytes_sent += len(data)

    def send_heartbeat(self) -> None:
        """Send a heartbeat frame."""
        self.write(HEARTBEAT_FRAME)

    def wake(self, channel: int) -> None:
        """Request a reply that the owner ignores, so that the socket turns readable soon.

        For messages that arrived during another request: `select` does not report them, as they are read already.
        """
        self.write(method_frame(channel, 20, 20, b"\x01"))

    # ------------------------------------------------------------ state

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return int(self._transport.sock.fileno())

    def readable(self) -> bool:
        """Return whether the socket has unread bytes, without reading them."""
        sock = self._transport.sock
        return bool(self.address.tls and sock.pending()) or bool(self._wait(selectors.EVENT_READ, 0))

    def _wait(self, events: int, timeout: float) -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(self._transport.sock, events)
            ready = selector.select(timeout)
        return ready[0][1] if ready else 0

    def open_channel(self) -> Channel:
        """Open a new channel."""
        channel = self.channel()
        self._opened.add(channel)
        return channel

    def close_quietly(self) -> None:
        """Close with the handshake if possible, else without; never raises."""
        if self.pid != os.getpid():
            self.abandon()
            return
        self.on_delivery = self.on_return = self.on_cancel = _ignore
        self.on_channel_closed = lambda _closed: True
        try:
            if self._transport is not None and self._transport.sock is not None:
                self._close_until = monotonic() + CLOSE_TIMEOUT
                self.close()
        except (*LOST, ChannelClosed, TypeError, AttributeError):
            pass  # py-amqp drops its channels on the broker's close, and raises on using them
        self.abandon()

    def abandon(self) -> None:
        """Close the socket without the handshake: after a fork the parent uses it, after an error it is dead."""
        transport, self._transport = self._transport, None
        if transport is not None and transport.sock is not None:
            sock, transport.sock = transport.sock, None
            transport.connected = False
            sock.close()
        self._break_cycles()

    def _break_cycles(self) -> None:
        """Break the reference cycles between py-amqp's objects and their owners."""
        for channel in (*self._opened, self):
            # Without a connection, `collect` does not use the connection's table of numbers.
            channel.connection = channel.on_open = None
            channel._callbacks.clear()
            channel._pending.clear()
            if channel is not self:
                channel.collect()
        self.channels = self._frame_writer = self._on_inbound_frame = self.on_blocked = self.on_unblocked = None
        self.on_delivery = self.on_return = self.on_confirm = self.on_cancel = _ignore
        self.on_channel_closed = _not_handled
        self._buffer = b""
        self._partial.clear()


def _method_writer(connection: AmqpConnection, _transport: object) -> Callable[..., None]:
    """Return a writer for py-amqp's methods; py-amqp's own allocates a buffer of the largest frame."""
    this = ref(connection)

    def write_method(_kind: int, channel: int, method: tuple[int, int], arguments: bytes, _content: None) -> None:
        if (connection := this()) is not None:
            connection.write(method_frame(channel, *method, arguments or b""))

    return write_method


def _ignore(*_: object) -> None:
    pass


def _not_handled(_closed: ChannelClosed) -> bool:
    return False


def _short(buf: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + buf[at]
    return buf[at + 1 : end], end


def _delivery_arguments(buf: bytes, at: int) -> tuple[bytes, int, int, bytes, bytes]:
    end = at + 1 + buf[at]
    consumer_tag = buf[at + 1 : end]
    tag, redelivered = _u64_u8(buf, end)
    at = end + 9
    end = at + 1 + buf[at]
    exchange = buf[at + 1 : end]
    return consumer_tag, tag, redelivered, exchange, buf[end + 1 : end + 1 + buf[end]]


def lost(address: AmqpAddress, error: BaseException) -> ConnectionLost:
    """Return the `ConnectionLost` for `error` of the broker at `address`."""
    text = reason(error)
    if isinstance(error, ChannelClosed) and "acknowledgement" in text and "timed out" in text:
        text += "; a task ran longer than RabbitMQ's consumer_timeout: raise it there, or acknowledge early"
    return ConnectionLost(f"the connection to {address.display} was lost: {text}")


def reason(error: BaseException) -> str:
    """Return the broker's or the system's text of `error`."""
    words = getattr(error, "reply_text", "") or getattr(error, "strerror", "") or str(error)
    return str(words) or type(error).__name__
