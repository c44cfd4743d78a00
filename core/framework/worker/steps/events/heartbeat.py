"""Sends the worker's heartbeat events: that it is alive, and its load.

1. ``worker-online`` on every new connection.
2. ``worker-heartbeat`` every `interval` seconds.
3. ``worker-offline`` when the worker stops.
"""

from __future__ import annotations

import os
import platform
from typing import Any, Final

from framework import __version__
from framework.api.loop import Loop, Timer
from framework.worker.settle.settle import Settle
from framework.worker.steps.events.dispatcher import EventDispatcher

#: The software and platform, in every event of a worker.
SOFTWARE: Final = {"sw_ident": "framework", "sw_ver": __version__, "sw_sys": platform.system()}


class Heartbeat:
    """Sends heartbeats. Everything but the constructor runs in the loop."""

    def __init__(self, loop: Loop, dispatcher: EventDispatcher, settle: Settle, interval: float) -> None:
        """`interval` is in seconds."""
        self._loop = loop
        self._dispatcher = dispatcher
        self._settle = settle
        self._interval = interval
        self._timer: Timer | None = None
        self._stopped = False

    def online(self) -> None:
        """Send ``worker-online``, and heartbeats from now on."""
        if self._stopped:
            return
        self._send("worker-online")
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._interval, self._beat)

    def _beat(self) -> None:
        self._send("worker-heartbeat")
        self._schedule()

    def stop(self) -> None:
        """Send ``worker-offline``; harmless when repeated."""
        if self._stopped:
            return
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._send("worker-offline")

    def _send(self, event: str) -> None:
        settle = self._settle
        facts: dict[str, Any] = {
            "freq": self._interval,
            "active": sum(1 for request in settle.running.values() if request.started),
            "processed": sum(settle.total.values()),
            "loadavg": [round(load, 2) for load in os.getloadavg()],
        }
        self._dispatcher.send(event, **facts, **SOFTWARE)
