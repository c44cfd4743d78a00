"""Handles the signals of the worker's main process, from program start to exit.

1. Before the worker starts, `hold` keeps HUP for the loop and ignores USR1 and USR2. TERM, INT and QUIT end the
   program: it has received no messages yet.
2. A signal that stops or restarts the worker reaches the loop through the interpreter's wake-up descriptor, whatever
   the main thread is doing. Signals that arrive before the loop runs are kept.
3. USR1 and USR2 debug a worker that may be stuck: the main thread handles them itself.
4. Code in a task may take the wake-up descriptor (as asyncio does): the handler then forwards the signal itself.
5. A copy of the process, forked by a task, has the default handlers: a signal for the copy does not reach the worker.
6. After the stop the exit code is fixed: no late signal changes it, or ends the program that HUP starts.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

from framework.api.loop import Loop
from framework.api.originals import original

logger = logging.getLogger(__name__)

#: Seconds that threads of the application have to end when the worker has stopped.
_THREADS_WAIT: Final = 5.0

#: Signals that the loop handles.
STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
#: The signals that end the worker.
_ENDING: Final = STOPPING[:3]
#: Signals that debug the worker.
_DEBUGGING: Final = (signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """The signal handlers. Call everything but `attach` in the main thread."""

    def __init__(self) -> None:
        self._on_stop: Callable[[int], object] | None = None
        self._in_main: dict[signal.Signals, Callable[[FrameType | None], object]] = {}
        # Not a pipe: `os.read` on an empty pipe would block once eventlet has patched it.
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._previous: dict[int, Any] = {}
        self._previous_fd = -1
        self._debugging = False
        #: The signal mask of each thread that is in `os.fork`.
        self._forking = threading.local()

    # ------------------------------------------------------------ start

    def hold(self) -> None:
        """Keep signals for the worker that is about to start, instead of letting them end the program."""
        self._previous_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        atexit.register(self._ignore_all)  # registered before the application's functions, so it is called after them
        # With a terminal HUP keeps its default: a terminal that closes ends a program that has not started.
        if sys.__stdout__ is None or not sys.__stdout__.isatty():
            self._set_handler(signal.SIGHUP, self._on_stop_signal)
        for signum in _DEBUGGING:
            self._set_handler(signum, signal.SIG_IGN)
        # INT ends the program, like TERM and QUIT. A KeyboardInterrupt could be swallowed by a module that is being
        # imported, and a half-patched gevent may keep the interpreter from exiting.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._set_handler(signal.SIGINT, signal.SIG_DFL)

    def _set_handler(self, signum: signal.Signals, handler: Any) -> None:
        previous = signal.signal(signum, handler)
        self._previous.setdefault(signum, previous)

    def restore(self) -> None:
        """Restore the previous handlers: the worker will not start."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._close()
        atexit.unregister(self._ignore_all)

    def _close(self) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        self._read.close()
        self._write.close()

    # ------------------------------------------------------------ handling

    def install(
        self, on_stop: Callable[[int], object], in_main: dict[signal.Signals, Callable[[FrameType | None], object]]
    ) -> None:
        """Install the handlers of all signals.

        `on_stop` is called in the loop with the number of a stopping signal. `in_main`: the main thread's handlers of
        USR1 and USR2, called with the interrupted frame.
        """
        self._on_stop = on_stop
        self._in_main = in_main
        for signum in STOPPING:
            self._set_handler(signum, self._on_stop_signal)
        for signum in _DEBUGGING:
            self._set_handler(signum, self._on_debug_signal)
        os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._reset_in_copy)

    def _block(self) -> None:
        # Until the copy has the default handlers, it would write a signal to the wake-up descriptor, the worker's own.
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPPING, *_DEBUGGING))

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _reset_in_copy(self) -> None:
        signal.set_wakeup_fd(-1)
        for signum in (*STOPPING, *_DEBUGGING):
            signal.signal(signum, signal.SIG_DFL)
        self._unblock()

    def attach(self, loop: Loop) -> None:
        """Deliver past and future stopping signals to `loop`; called in the loop."""
        loop.add_reader(self._read.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        assert self._on_stop is not None
        for number in self._pending():
            if number in STOPPING:
                self._on_stop(number)

    def _pending(self) -> bytes:
        """Return the numbers of the signals that were not handled yet."""
        try:
            return self._read.recv(4096)
        except BlockingIOError:
            return b""

    def _on_stop_signal(self, signum: int, _frame: FrameType | None) -> None:
        # The interpreter has written to the descriptor already, unless other code had replaced it.
        if signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False) != self._write.fileno():
            with contextlib.suppress(BlockingIOError):  # the buffer is full of signals
                self._write.send(bytes([signum]))

    def _on_debug_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._debugging:
            return  # it interrupted the handler of an earlier signal, which may be inside an import
        self._debugging = True
        try:
            self._in_main[signal.Signals(signum)](frame)
        except Exception:  # debugging must not harm the interrupted code: a task, or the wait for the end
            logger.exception("The handler of %s failed", signal.Signals(signum).name)
        finally:
            self._debugging = False

    # ------------------------------------------------------------ end

    def may_restart(self) -> bool:
        """Prepare the signals for a restart in this process; return False if a signal has ended the worker meanwhile.

        The new program ignores HUP, USR1 and USR2 until it holds them itself.
        """
        for signum in (signal.SIGHUP, *_DEBUGGING):
            signal.signal(signum, signal.SIG_IGN)
        for signum in _ENDING:
            # The stop is complete: from now on these signals end the process, before or after the restart.
            signal.signal(signum, signal.SIG_DFL)
        return not set(self._pending()).intersection(_ENDING)

    def fix_exit_code(self, code: int) -> None:
        """Make sure that the process exits with `code`, unless KILL ends it.

        Threads of the application may keep the process from exiting: TERM, INT and QUIT exit at once, and after
        `_THREADS_WAIT` seconds the threads are named in the log and the process exits without them.
        """

        def now(_signum: int, _frame: FrameType | None) -> NoReturn:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # a broken pipe; closed; in use
                    stream.flush()
            os._exit(code)

        for signum in (signal.SIGHUP, *_DEBUGGING):
            signal.signal(signum, signal.SIG_IGN)
        for signum in _ENDING:
            signal.signal(signum, now)
        self._close()
        # A system thread, whatever is patched: nothing else turns any more.
        original("_thread").start_new_thread(_exit_without_threads, (code,))

    @staticmethod
    def _ignore_all() -> None:
        # The interpreter is about to remove all handlers; a signal during its cleanup would end the process.
        for signum in (*STOPPING, *_DEBUGGING):
            signal.signal(signum, signal.SIG_IGN)


def _exit_without_threads(code: int) -> None:
    """Exit with `code` once threads that should have ended keep the process for `_THREADS_WAIT` seconds."""
    sleep = original("time").sleep
    while True:
        sleep(_THREADS_WAIT)
        main = threading.main_thread()
        names = [each.name for each in threading.enumerate() if not each.daemon and each is not main]
        if names:
            logger.warning(
                "The worker ends without %d threads that tasks have left: %s. Make them daemons, or join them",
                len(names),
                ", ".join(names),
            )
            os._exit(code)
