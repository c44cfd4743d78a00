"""Notifies the service manager that started the worker (systemd's ``Type=notify``).

1. Reports ready once the worker consumes; requests more time until then, so that an unreachable broker fails no start.
2. Reports a warm or cold stop as stopping, and HUP as reloading: the process stays.
3. Answers the watchdog from the loop: the service manager restarts a worker whose loop is frozen.
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

#: Seconds between two requests for more time to start, and seconds that each requests.
_EXTEND_EVERY: Final = 10.0
_EXTEND_BY: Final = 30.0


class Notifier:
    """Sends notifications to the service manager. Methods run in the loop, except the constructor and `close`."""

    def __init__(self, address: str, loop: Loop, environ: Mapping[str, str]) -> None:
        """`address`: a path, or ``@name`` for an abstract socket. Raises `OSError` when the connection is refused."""
        self._loop = loop
        self._ready = False
        self._failure_logged = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self._socket.close()
            raise
        self._interval = _watchdog(environ)
        #: Answers the watchdog; None before `begin`, or without a watchdog.
        self._watchdog: Timer | None = None

    def begin(self) -> None:
        """Start to request time and to answer the watchdog."""
        if self._interval:
            self._watchdog = self._loop.call_every(self._interval, self.send, "WATCHDOG=1")
        self._extend()

    def ready(self) -> None:
        """Report that the worker consumes."""
        self._ready = True
        self.send("READY=1", "STATUS=Consuming")

    def stopping(self, again: bool) -> None:
        """Report that the worker stops; `again`: it restarts in the same process."""
        if again:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self.send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=Finishing tasks, then starting again")
        else:
            self.send("STOPPING=1", "STATUS=Finishing tasks")

    def send(self, *lines: str) -> None:
        """Send one notification; only the first failure is logged."""
        try:
            self._socket.send("\n".join(lines).encode())
        except OSError as error:
            if not self._failure_logged:
                self._failure_logged = True
                logger.warning("Cannot send %s to the service manager: %s", lines[0], error)

    def _extend(self) -> None:
        if not self._ready:
            self.send(f"EXTEND_TIMEOUT_USEC={_EXTEND_BY * 1_000_000:.0f}", "STATUS=Waiting for the broker")
            self._loop.call_later(_EXTEND_EVERY, self._extend)

    def close(self) -> None:
        """Stop the notifications and close the socket."""
        self._ready = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._socket.close()


def _watchdog(environ: Mapping[str, str]) -> float:
    """Return the seconds between two answers to the watchdog; 0: no watchdog is set for this process."""
    limit = environ.get("WATCHDOG_USEC", "")
    if not limit.isdigit() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(limit) / 2_000_000
