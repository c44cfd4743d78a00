"""Signals of the worker's main process, from the first line of the program to the last.

1. While the program gets ready to run, those that must not end it are held: HUP waits for the loop, USR1 and USR2 do
   nothing yet. One that stops the worker may end a program that has not begun: it has nothing to give back.
2. The ones that stop or restart the worker reach the loop through the interpreter's wake-up descriptor: the moment they
   arrive, whatever the main thread is doing, and also those that came before the loop turned.
3. USR1 and USR2 are for people who look into a worker that may be stuck: the main thread deals with them itself.
4. Code that takes the wake-up descriptor for itself (an asyncio program in a task) loses nothing: the handler notices.
5. When all is done the exit code is certain: no late signal replaces it, or ends the program that HUP starts.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

from framework.api.loop import Loop

logger = logging.getLogger(__name__)

#: Signals that the loop gets.
STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
#: Those of them that ask for an end.
_ENDING: Final = STOPPING[:3]
#: Signals for looking into the worker.
_LOOKING: Final = (signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """The handlers. Everything but `attach` belongs into the main thread."""

    def __init__(self) -> None:
        self._on_stop: Callable[[int], object] | None = None
        self._in_main: dict[signal.Signals, Callable[[FrameType | None], object]] = {}
        # Not a pipe: once eventlet has patched it, `os.read` waits for what is not there.
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._previous: dict[int, Any] = {}
        self._previous_fd = -1
        self._looks = False

    # ------------------------------------------------------------ beginning

    def hold(self) -> None:
        """Keep what comes from now on from ending a program that is about to be a worker."""
        self._previous_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        atexit.register(self._last)  # before anything of the application: it is called after all that
        # A terminal that closes ends a program that has not begun.
        if sys.__stdout__ is None or not sys.__stdout__.isatty():
            self._take(signal.SIGHUP, self._stopping)
        for signum in _LOOKING:
            self._take(signum, signal.SIG_IGN)
        # Ends the program, like TERM and QUIT. An exception could be swallowed by whatever is being imported, or leave
        # that half done; and what gevent has patched by half need not let the interpreter end.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._take(signal.SIGINT, signal.SIG_DFL)

    def _take(self, signum: signal.Signals, handler: Any) -> None:
        previous = signal.signal(signum, handler)
        self._previous.setdefault(signum, previous)

    def restore(self) -> None:
        """Put back what was there before: there will be no worker."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._let_go()
        atexit.unregister(self._last)

    def _let_go(self) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        self._read.close()
        self._write.close()

    # ------------------------------------------------------------ working

    def install(
        self, on_stop: Callable[[int], object], in_main: dict[signal.Signals, Callable[[FrameType | None], object]]
    ) -> None:
        """Take all signals.

        `on_stop` is called in the loop with the number of a stopping signal. `in_main`: what the main thread does about
        USR1 and USR2, with the frame that was interrupted.
        """
        self._on_stop = on_stop
        self._in_main = in_main
        for signum in STOPPING:
            self._take(signum, self._stopping)
        for signum in _LOOKING:
            self._take(signum, self._looking)

    def attach(self, loop: Loop) -> None:
        """Hand what has come, and what will come, to `loop`; called in the loop."""
        loop.add_reader(self._read.fileno(), self._arrived)

    def _arrived(self) -> None:
        assert self._on_stop is not None
        for number in self._waiting():
            if number in STOPPING:
                self._on_stop(number)

    def _waiting(self) -> bytes:
        """Return the numbers of the signals that nobody has been told of."""
        try:
            return self._read.recv(4096)
        except BlockingIOError:
            return b""

    def _stopping(self, signum: int, _frame: FrameType | None) -> None:
        # The descriptor has told the loop already, unless somebody else had taken it.
        if signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False) != self._write.fileno():
            with contextlib.suppress(BlockingIOError):  # thousands of signals wait already
                self._write.send(bytes([signum]))

    def _looking(self, signum: int, frame: FrameType | None) -> None:
        if self._looks:
            return  # it has interrupted the one before it, which may be about to import what it needs
        self._looks = True
        try:
            self._in_main[signal.Signals(signum)](frame)
        except Exception:  # looking must do no harm to what it interrupts: a task, or the wait for the end
            logger.exception("What %s asked for has failed", signal.Signals(signum).name)
        finally:
            self._looks = False

    # ------------------------------------------------------------ ending

    def may_restart(self) -> bool:
        """Prepare for another program in this process; False: somebody has asked for an end after all.

        That program has HUP, USR1 and USR2 ignored until it holds them itself.
        """
        for signum in (signal.SIGHUP, *_LOOKING):
            signal.signal(signum, signal.SIG_IGN)
        for signum in _ENDING:
            # Nothing is left to do: one that comes from now on ends the process, whichever program is in it.
            signal.signal(signum, signal.SIG_DFL)
        return not set(self._waiting()).intersection(_ENDING)

    def leave(self, code: int) -> None:
        """Let nothing but KILL change that the process ends with `code`.

        What asks for an end ends it at once: something of the application's may keep it from ending by itself.
        """

        def now(_signum: int, _frame: FrameType | None) -> NoReturn:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # a pipe's end; closed; in use just now
                    stream.flush()
            os._exit(code)

        for signum in (signal.SIGHUP, *_LOOKING):
            signal.signal(signum, signal.SIG_IGN)
        for signum in _ENDING:
            signal.signal(signum, now)
        self._let_go()

    @staticmethod
    def _last() -> None:
        # The interpreter is about to take away all handlers, and would die of what comes while it clears up.
        for signum in (*STOPPING, *_LOOKING):
            signal.signal(signum, signal.SIG_IGN)
