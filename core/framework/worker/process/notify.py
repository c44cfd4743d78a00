"""What the worker tells the service manager that started it (systemd's ``Type=notify``).

1. It is ready once it consumes; until then it asks for more time, so that a broker that is away fails no start.
2. A warm or cold stop is a stop, a HUP is a reload: the process stays.
3. The watchdog is answered by the loop: a worker whose loop has frozen falls silent, and is restarted.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from framework.api.loop import Loop, Timer

logger = logging.getLogger(__name__)

#: Seconds between two requests for more time to start, and how much is asked for.
_EXTEND_EVERY: Final = 10.0
_EXTEND_BY: Final = 30.0


class Notifier:
    """Speaks to the service manager. All but the constructor and `close` runs in the loop."""

    def __init__(self, address: str, loop: Loop, environ: Mapping[str, str]) -> None:
        """`address`: a path, or ``@name`` for a socket without one. Raises `OSError` when nobody listens there."""
        self._loop = loop
        self._ready = False
        self._complained = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self._socket.close()
            raise
        self._interval = _watchdog(environ)
        #: Answers the watchdog; None: there is none, or `begin` was not called yet.
        self._watchdog: Timer | None = None

    def begin(self) -> None:
        """Ask for time, and answer the watchdog, until `close`."""
        if self._interval:
            self._watchdog = self._loop.call_every(self._interval, self.send, "WATCHDOG=1")
        self._extend()

    def ready(self) -> None:
        """Say that the worker consumes."""
        self._ready = True
        self.send("READY=1", "STATUS=Consuming")

    def stopping(self, again: bool) -> None:
        """Say that the worker stops; `again`: to start anew in the same process."""
        if again:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self.send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=Finishing tasks, then starting again")
        else:
            self.send("STOPPING=1", "STATUS=Finishing tasks")

    def send(self, *lines: str) -> None:
        """Send one message; a manager that has gone away is told of once."""
        try:
            self._socket.send("\n".join(lines).encode())
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning("The service manager cannot be told %s: %s", lines[0], error)

    def _extend(self) -> None:
        if not self._ready:
            self.send(f"EXTEND_TIMEOUT_USEC={_EXTEND_BY * 1_000_000:.0f}", "STATUS=Waiting for the broker")
            self._loop.call_later(_EXTEND_EVERY, self._extend)

    def close(self) -> None:
        """Fall silent."""
        self._ready = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._socket.close()


def _watchdog(environ: Mapping[str, str]) -> float:
    """Return how often to answer the watchdog, in seconds; 0: there is none, or it is not for this process."""
    limit = environ.get("WATCHDOG_USEC", "")
    if not limit.isdigit() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(limit) / 2_000_000
