"""The heart: tells monitors that this worker lives, and how busy it is.

1. ``worker-online`` whenever there is a connection that was not there before.
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

#: What the worker runs on, as every event of a worker says.
SOFTWARE: Final = {"sw_ident": "framework", "sw_ver": __version__, "sw_sys": platform.system()}


class Heartbeat:
    """Beats. Everything but the constructor runs in the loop."""

    def __init__(self, loop: Loop, dispatcher: EventDispatcher, settle: Settle, interval: float) -> None:
        """`interval` is in seconds."""
        self._loop = loop
        self._dispatcher = dispatcher
        self._settle = settle
        self._interval = interval
        self._timer: Timer | None = None
        self._stopped = False

    def online(self) -> None:
        """Say that the worker is there, and go on beating."""
        if self._stopped:
            return
        self._tell("worker-online")
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._interval, self._beat)

    def _beat(self) -> None:
        self._tell("worker-heartbeat")
        self._arm()

    def stop(self) -> None:
        """Say goodbye; harmless when repeated."""
        if self._stopped:
            return
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._tell("worker-offline")

    def _tell(self, event: str) -> None:
        settle = self._settle
        facts: dict[str, Any] = {
            "freq": self._interval,
            "active": sum(1 for request in settle.running.values() if request.started),
            "processed": sum(settle.total.values()),
            "loadavg": [round(load, 2) for load in os.getloadavg()],
        }
        self._dispatcher.send(event, **facts, **SOFTWARE)
