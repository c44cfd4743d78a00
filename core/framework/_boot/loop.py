"""The worker's event loop.

1. Watches descriptors (`polling`), keeps one heap of timers, and has one wake-up descriptor.
2. Runs callbacks one after another in the thread that called `run`: nothing else touches the broker or a pool's pipes.
3. Other threads and signal handlers hand it work through `call_soon_threadsafe`, which is re-entrant and never logs.
4. A callback that raises is reported to `on_error` and the loop goes on: one bad message must not end the worker.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import selectors
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, TypeAlias

from framework._boot.selector import make_selector

logger = logging.getLogger(__name__)

Callback: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]

#: With this many cancelled timers the heap is rebuilt without them.
_CANCELLED_MAX: Final = 512


class ScheduledCall:
    """A scheduled call, made by `EventLoop.call_later`."""

    __slots__ = ("_loop", "args", "callback", "when")

    def __init__(self, loop: EventLoop, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._loop = loop
        self.when = when
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        """Forget the call; harmless when it has run."""
        if self.callback is not None:
            self.callback = None
            self.args = ()
            self._loop._forget_cancelled()


class EventLoop:
    """The loop that `framework.api.loop.EventLoop` promises to plugins."""

    def __init__(self, on_error: Callable[[BaseException], object] | None = None) -> None:
        self._selector = make_selector()
        self._ready: deque[Callback] = deque()
        # deque.append is atomic: signal handlers and other threads need no lock that they could deadlock on.
        self._foreign: deque[Callback] = deque()
        self._timers: list[tuple[float, int, ScheduledCall]] = []
        self._order = itertools.count()
        self._cancelled = 0
        self._stopping = False
        self._asleep = False
        self._running = False
        self._on_error = on_error or _log_error
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self.add_reader(self._wake_read.fileno(), self._drain_wakeups)

    time = staticmethod(monotonic)

    # ------------------------------------------------------------ scheduling

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on the next turn."""
        self._ready.append((callback, args))

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on the next turn; from any thread or signal handler."""
        self._foreign.append((callback, args))
        # While the loop is awake it looks into the deque before it sleeps, so a byte is only owed to a sleeper.
        if self._asleep:
            self.wake()

    def wake(self) -> None:
        """End the loop's sleep."""
        # Full: it will wake anyway. Closed: there is nothing to wake. Not os.write: under eventlet that waits, and in a
        # signal handler it cannot.
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> ScheduledCall:
        """Run `callback(*args)` after `delay` seconds."""
        timer = ScheduledCall(self, monotonic() + delay, callback, args)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def _forget_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > _CANCELLED_MAX and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    # ------------------------------------------------------------ descriptors

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on every turn on which `fd` is readable."""
        self._readers[fd] = (callback, args)
        self._watch(fd)

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd` for reading."""
        if self._readers.pop(fd, None) is not None:
            self._watch(fd)

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on every turn on which `fd` is writable."""
        self._writers[fd] = (callback, args)
        self._watch(fd)

    def remove_writer(self, fd: int) -> None:
        """Stop watching `fd` for writing."""
        if self._writers.pop(fd, None) is not None:
            self._watch(fd)

    def _watch(self, fd: int) -> None:
        events = (selectors.EVENT_READ if fd in self._readers else 0) | (
            selectors.EVENT_WRITE if fd in self._writers else 0
        )
        # Anew rather than modified: the descriptor may have been closed under us, and another one have its number now.
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        if events:
            self._selector.register(fd, events)

    def _drain_wakeups(self) -> None:
        try:
            while self._wake_read.recv(4096):
                pass
        except BlockingIOError:
            pass

    # ------------------------------------------------------------ turning

    def run(self) -> None:
        """Turn until `stop`. The loop may be run again."""
        self._running = True
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._running = False
            self._stopping = False

    @property
    def running(self) -> bool:
        """The loop turns."""
        return self._running

    def stop(self) -> None:
        """End `run` once everything that was asked for before has run; from any thread."""
        self.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._stopping = True

    def close(self) -> None:
        """Let go of the loop's own descriptors; after `run` has returned."""
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _turn(self) -> None:
        ready = self._ready
        foreign = self._foreign
        self._asleep = True
        # Between the flag and the look at the deques another thread may add work: it then also wakes us.
        if ready or foreign or self._stopping:
            timeout: float | None = 0
        elif self._timers:
            timeout = max(0.0, self._timers[0][0] - monotonic())
        else:
            timeout = None
        events = self._selector.select(timeout)
        self._asleep = False

        for key, mask in events:
            if mask & selectors.EVENT_READ and (reader := self._readers.get(key.fd)) is not None:
                self._call(reader)
            if mask & selectors.EVENT_WRITE and (writer := self._writers.get(key.fd)) is not None:
                self._call(writer)
        if self._timers:
            self._fire_timers()
        # Only what was there at the start of the turn: a callback that re-arms itself must not starve the rest.
        for _ in range(len(foreign)):
            self._call(foreign.popleft())
        for _ in range(len(ready)):
            self._call(ready.popleft())

    def _fire_timers(self) -> None:
        now = monotonic()
        timers = self._timers
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            callback = timer.callback
            if callback is None:
                self._cancelled -= 1
                continue
            timer.callback = None
            self._call((callback, timer.args))

    def _call(self, callback: Callback) -> None:
        try:
            callback[0](*callback[1])
        except Exception as error:  # noqa: BLE001 - the background loop's wall: see point 4 of the module
            self._on_error(error)


def _log_error(error: BaseException) -> None:
    logger.critical("Defect in the worker's loop: %r", error, exc_info=error)


# ---------------------------------------------------------------- at regular times


class Pulse:
    """Beats from `start` to `stop`. Both, and the beats, happen in the loop."""

    def __init__(self, loop: EventLoop, interval: float, beat: Callable[[], object]) -> None:
        """`interval`: seconds between two beats."""
        self._loop = loop
        self._interval = interval
        self._do = beat
        self._timer: ScheduledCall | None = None
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
