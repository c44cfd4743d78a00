"""The signal with which a pool interrupts the jobs of a main thread.

Tasks and libraries may take the signal for themselves: they set another handler, ignore the signal, or block it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger(__name__)


class OwnSignal:
    """A signal and its handler; used in the main thread."""

    def __init__(self, signum: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        self._signum = signum
        self._handler = handler
        self._logged = False
        signal.signal(signum, handler)

    @property
    def taken(self) -> bool:
        """Whether the signal has another handler, or is ignored; any thread may ask."""
        return signal.getsignal(self._signum) != self._handler

    def take_back(self) -> None:
        """Install the handler again if the signal was taken; log the first time."""
        taken = self.taken
        if taken:
            signal.signal(self._signum, self._handler)
        taken = self._signum in signal.pthread_sigmask(signal.SIG_UNBLOCK, (self._signum,)) or taken
        if taken and not self._logged:
            self._logged = True
            logger.warning(
                "A task or a library has taken %s, with which the pool applies time limits: it is taken back before "
                "each task that has a limit; use another signal",
                self._signum.name,
            )
