"""Snapshots: periodic reads of the state, for storing it.

1. Subclass `Polaroid` with `on_shutter(state)`; it is called every `freq` seconds, while no event changes the state.
2. `framework events --camera module:Class` runs one; in code, `with Camera(state): receiver.capture()`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from framework.client.events.state import State
from framework.exceptions import ConfigError

if TYPE_CHECKING:
    from framework.client.app import App

logger = logging.getLogger(__name__)

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Polaroid:
    """A camera: calls `on_shutter` periodically, in its own thread."""

    #: Whether to forget workers, counts and ended tasks after each snapshot.
    clear_after = False

    def __init__(
        self,
        state: State,
        app: App | None = None,
        freq: float = 1.0,
        maxrate: str | float | None = None,
        cleanup_freq: float = 3600.0,
    ) -> None:
        """Take a snapshot every `freq` seconds, but at most `maxrate` (``"10/m"``, or a number a second).

        `cleanup_freq`: seconds between two calls of `on_cleanup`. Raises `ConfigError` for a malformed rate.
        """
        self.state = state
        self.app = app
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self._pause = _seconds_between(maxrate)
        self._last = float("-inf")
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_shutter(self, state: State) -> Any:
        """Read `state`, which does not change meanwhile. Overridden by subclasses."""

    def on_cleanup(self) -> Any:
        """Drop old data. Overridden by subclasses."""

    def install(self) -> None:
        """Start the thread that takes snapshots."""
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="framework-camera", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        cleaned = time.monotonic()
        while not self._ended.wait(self.freq):
            self._safely(self.capture)
            if time.monotonic() - cleaned >= self.cleanup_freq:
                cleaned = time.monotonic()
                self._safely(self.on_cleanup)

    @staticmethod
    def _safely(action: Any) -> None:
        try:
            action()
        except Exception:  # the hook-call wall: the next snapshot may succeed
            logger.exception("The camera failed: this snapshot is lost, the next one is taken as usual")

    def capture(self) -> None:
        """Take a snapshot now, unless that would exceed `maxrate`."""
        self.state.freeze_while(self._shutter)

    def _shutter(self) -> None:
        if time.monotonic() - self._last < self._pause:
            return
        self._last = time.monotonic()
        self.on_shutter(self.state)
        if self.clear_after:
            self.state.clear()

    def cancel(self) -> None:
        """Stop the thread and take a last snapshot. Idempotent."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        self._safely(self.capture)

    def __enter__(self) -> Polaroid:
        self.install()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.cancel()


def _seconds_between(rate: str | float | None) -> float:
    if not rate:
        return 0.0
    count, _, unit = str(rate).partition("/")
    try:
        return _UNITS[unit or "s"] / float(count)
    except (KeyError, ValueError, ZeroDivisionError):
        raise ConfigError(f"maxrate must be a number with a unit, as in 10/s, 200/m or 1000/h, not {rate!r}") from None
