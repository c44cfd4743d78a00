"""Signals of the worker's main process.

1. The ones that stop or restart the worker reach the loop through the interpreter's wake-up descriptor: the moment they
   arrive, whatever the main thread is doing, and also those that came before the loop turned.
2. USR1 and USR2 are for people who look into a worker that may be stuck: the main thread deals with them itself.
3. Code that takes the wake-up descriptor for itself (an asyncio program in a task) loses nothing: the handler notices.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from framework.api.loop import Loop

#: Signals that the loop gets.
STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class Signals:
    """The handlers, from `install` to `restore`; both in the main thread."""

    def __init__(
        self, on_stop: Callable[[int], object], in_main: dict[signal.Signals, Callable[[FrameType | None], object]]
    ) -> None:
        """`on_stop` is called in the loop with the number of a stopping signal.

        `in_main`: what the main thread does about other signals, with the frame that was interrupted.
        """
        self._on_stop = on_stop
        self._in_main = in_main
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._previous: dict[int, Any] = {}
        self._previous_fd = -1

    def install(self) -> None:
        """Take the signals."""
        self._previous_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for signum in STOPPING:
            self._previous[signum] = signal.signal(signum, self._stopping)
        for signum in self._in_main:
            self._previous[signum] = signal.signal(signum, self._looking)

    def attach(self, loop: Loop) -> None:
        """Hand what has come, and what will come, to `loop`; called in the loop."""
        loop.add_reader(self._read.fileno(), self._arrived)

    def restore(self) -> None:
        """Put back what was there before."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._read.close()
        self._write.close()

    def _arrived(self) -> None:
        try:
            numbers = self._read.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number in STOPPING:
                self._on_stop(number)

    def _stopping(self, signum: int, _frame: FrameType | None) -> None:
        # The descriptor has told the loop already, unless somebody else had taken it.
        if signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False) != self._write.fileno():
            with contextlib.suppress(BlockingIOError):  # thousands of signals wait already
                self._write.send(bytes([signum]))

    def _looking(self, signum: int, frame: FrameType | None) -> None:
        self._in_main[signal.Signals(signum)](frame)
