"""A descriptor that can be made readable: what a face hands to the loop."""

from __future__ import annotations

import socket


class Signal:
    """A descriptor that is readable while it is set."""

    def __init__(self) -> None:
        self._mine, self._theirs = socket.socketpair()
        self._mine.setblocking(False)
        self._theirs.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._mine.fileno()

    def set(self) -> None:
        """Make it readable; harmless when it is, or when it is closed."""
        try:
            self._theirs.send(b"\0")
        except OSError:
            # Full: it is set. Closed: nobody waits.
            return

    def clear(self) -> bool:
        """Make it unreadable; return whether it was readable."""
        was_set = False
        try:
            while self._mine.recv(4096):
                was_set = True
        except OSError:
            # Empty, or closed.
            return was_set
        return was_set

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close both ends."""
        self._mine.close()
        self._theirs.close()
