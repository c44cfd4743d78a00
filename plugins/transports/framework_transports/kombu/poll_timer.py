"""A timer that wakes the loop for the next poll, for brokers that cannot wake it.

1. `arm` makes its descriptor readable once, after a pause that doubles with every poll that finds nothing.
2. Its thread sleeps while the timer is not armed.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final

from framework.api.backoff import Backoff

#: Seconds between two polls after a message was found; doubled with each poll that finds nothing.
FIRST_PAUSE: Final = 0.02


class PollTimer:
    """Makes a descriptor readable some time after `arm`, from a thread."""

    def __init__(self, longest: float) -> None:
        self._backoff = Backoff(FIRST_PAUSE, longest, jitter=0.0)
        self._pause = self._backoff.next()
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._armed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kombu-poll-timer", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._read.fileno()

    def arm(self, *, found: bool) -> None:
        """Make the descriptor readable once, after a pause: short if a message was `found`, else twice the last."""
        if found:
            self._backoff.reset()
        self._pause = self._backoff.next()
        self._armed.set()

    def drain(self) -> None:
        """Make the descriptor unreadable."""
        with suppress(BlockingIOError):
            while self._read.recv(64):
                pass

    def _run(self) -> None:
        # Checked after `_armed` was cleared, so that a `close` just before is not missed.
        while not self._closed.is_set():
            self._armed.wait()
            if self._closed.wait(self._pause):
                return
            self._armed.clear()
            with suppress(OSError):
                self._write.send(b"\0")

    def close(self) -> None:
        """End the thread and close the descriptor."""
        self._closed.set()
        self._armed.set()
        self._thread.join()
        self._read.close()
        self._write.close()
