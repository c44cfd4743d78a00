"""The ticker: wakes the loop where the broker cannot.

1. `arm` makes its descriptor readable once, after a pause that grows while looks are in vain.
2. Its thread sleeps for good while it is not armed.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final

from framework.api.backoff import Backoff

#: Seconds between two looks, right after there was something; doubled with each look in vain.
FIRST_PAUSE: Final = 0.02


class PollTimer:
    """Makes a descriptor readable some time after `arm`; a thread of its own, which sleeps for good while disarmed."""

    def __init__(self, longest: float) -> None:
        self._backoff = Backoff(FIRST_PAUSE, longest, jitter=0.0)
        self._pause = self._backoff.next()
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._armed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="kombu-ticker", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._read.fileno()

    def arm(self, *, found: bool) -> None:
        """Tick once, after a pause that grows while nothing is `found`."""
        if found:
            self._backoff.reset()
        self._pause = self._backoff.next()
        self._armed.set()

    def drain(self) -> None:
        """Forget ticks that have come."""
        with suppress(BlockingIOError):
            while self._read.recv(64):
                pass

    def _tick(self) -> None:
        # Asked after `_armed` was cleared: a close that came just before that is not slept through.
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
