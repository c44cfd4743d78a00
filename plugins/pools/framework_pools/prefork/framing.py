"""Frames over stream sockets: four bytes of length, then the data. The empty frame is a doorbell: read the outbox.

1. `FrameReader` joins received pieces to frames.
2. `Outlet` writes without blocking: it buffers the data that the socket does not accept yet.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import Final

from framework.api.loop import Loop

_LENGTH: Final = Struct("=I")
DOORBELL: Final = _LENGTH.pack(0)
#: Most bytes read at once.
CHUNK: Final = 256 * 1024


def frame(data: bytes) -> bytes:
    """Return `data` as a frame."""
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Buffers received bytes until a frame is complete."""

    __slots__ = ("_buffer", "_wanted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = 4

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes; doorbells are left out."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        # A large frame arrives in hundreds of pieces: parse only a complete one.
        while len(buffer) >= self._wanted:
            size = _LENGTH.unpack_from(buffer)[0]
            end = 4 + size
            if len(buffer) < end:
                self._wanted = end
                break
            if size:
                frames.append(bytes(memoryview(buffer)[4:end]))
            del buffer[:end]
            self._wanted = 4
        return frames


class Outlet:
    """Writer of frames to a non-blocking socket."""

    __slots__ = ("_buffer", "_loop", "_socket", "_watching")

    def __init__(self, sock: socket.socket, loop: Loop) -> None:
        self._socket = sock
        self._loop = loop
        self._buffer = bytearray()
        self._watching = False

    def send(self, data: bytes) -> None:
        """Write a frame of `data`: at once as far as the socket accepts it, the rest later."""
        if self._buffer:
            self._buffer += _LENGTH.pack(len(data))
            self._buffer += data
            return
        whole = _LENGTH.pack(len(data)) + data
        sent = self._send(whole)
        if sent < len(whole):
            self._buffer += memoryview(whole)[sent:]
            self._watching = True
            self._loop.add_writer(self._socket.fileno(), self._flush)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the peer is gone; its reader reports that

    def _flush(self) -> None:
        sent = self._send(self._buffer)
        del self._buffer[:sent]
        if not self._buffer:
            self.close()

    def close(self) -> None:
        """Drop the buffered data; harmless when repeated."""
        self._buffer.clear()
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._socket.fileno())
