"""A pulse: something that the loop does at regular times, which shows that it turns."""

from __future__ import annotations

from collections.abc import Callable

from framework.api.loop import Loop, Timer


class Pulse:
    """Beats from `start` to `stop`. Both, and the beats, happen in the loop."""

    def __init__(self, loop: Loop, interval: float, beat: Callable[[], object]) -> None:
        """`interval`: seconds between two beats."""
        self._loop = loop
        self._interval = interval
        self._do = beat
        self._timer: Timer | None = None
        self._stopped = False

    def start(self) -> None:
        """Beat now, and go on."""
        if self._stopped:
            return
        # Armed first: a beat that fails is not the last.
        self._timer = self._loop.call_later(self._interval, self.start)
        self._do()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
