"""A descriptor that can be made readable, to wake the loop."""

from __future__ import annotations

import socket


class Signal:
    """A descriptor that is readable while it is set."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._read.fileno()

    def set(self) -> None:
        """Make the descriptor readable; harmless when it is readable or closed."""
        try:
            self._write.send(b"\0")
        except OSError:
            # A full buffer means that it is set; a closed socket has no reader.
            return

    def clear(self) -> bool:
        """Make the descriptor unreadable; return whether it was readable."""
        was_set = False
        try:
            while self._read.recv(4096):
                was_set = True
        except OSError:
            # The buffer is empty, or the socket closed.
            return was_set
        return was_set

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close both ends."""
        self._read.close()
        self._write.close()
