"""The worker's event loop.

1. Watches descriptors (`selector`), keeps one heap of timers, and has one wake-up descriptor.
2. Runs callbacks one after another in the thread that called `run`: nothing else touches the broker or a pool's pipes.
3. Accepts callbacks from other threads and signal handlers: `call_soon_threadsafe` is re-entrant and never logs.
4. Reports a callback that raises to `on_error` and continues: one bad message must not end the worker.
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

#: The heap is rebuilt when it holds more cancelled timers than this, and more than half are cancelled.
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
        """Cancel the call; harmless when it has run."""
        if self.callback is not None:
            self.callback = None
            self.args = ()
            self._loop._forget_cancelled()


class RepeatedCall:
    """A call repeated at an interval, made by `EventLoop.call_every`."""

    __slots__ = ("_loop", "_next", "args", "callback", "interval")

    def __init__(
        self, loop: EventLoop, interval: float, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._loop = loop
        self._next: ScheduledCall | None = None
        self.interval = interval
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def run(self) -> None:
        """Call the callback now, and schedule the next call."""
        if self.callback is not None:
            # Scheduled first, so that a callback that raises is called again.
            self._next = self._loop.call_later(self.interval, self.run)
            self.callback(*self.args)

    def cancel(self) -> None:
        """Cancel all further calls; harmless when repeated."""
        self.callback = None
        if self._next is not None:
            self._next.cancel()


class EventLoop:
    """The event loop; plugins see it as `framework.api.loop.Loop`."""

    def __init__(self, on_error: Callable[[BaseException], object] | None = None) -> None:
        self._selector = make_selector()
        self._ready: deque[Callback] = deque()
        # deque.append is atomic, so callers need no lock; a lock could deadlock in a signal handler.
        self._from_threads: deque[Callback] = deque()
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
        self._from_threads.append((callback, args))
        # A loop that is awake checks the deque before it sleeps: only a sleeping loop needs the wake-up byte.
        if self._asleep:
            self.wake()

    def wake(self) -> None:
        """End the loop's sleep."""
        # OSError: the buffer is full, so the loop wakes anyway, or the loop is closed. Not os.write: eventlet's
        # version waits, which is impossible in a signal handler.
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> ScheduledCall:
        """Run `callback(*args)` after `delay` seconds."""
        timer = ScheduledCall(self, monotonic() + delay, callback, args)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def call_every(self, interval: float, callback: Callable[..., object], *args: Any) -> RepeatedCall:
        """Run `callback(*args)` on the next turn and then every `interval` seconds."""
        repeated = RepeatedCall(self, interval, callback, args)
        self.call_soon(repeated.run)
        return repeated

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
        # Registered anew, not modified: the descriptor may have been closed and its number used again since.
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

    # ------------------------------------------------------------ running

    def run(self) -> None:
        """Run callbacks until `stop`. The loop may be run again."""
        self._running = True
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._running = False
            self._stopping = False

    @property
    def running(self) -> bool:
        """Whether `run` is being executed."""
        return self._running

    def stop(self) -> None:
        """End `run` after the turn that runs the callbacks scheduled so far; from any thread."""
        self.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._stopping = True

    def close(self) -> None:
        """Close the loop's own descriptors; call it after `run` has returned."""
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _turn(self) -> None:
        ready = self._ready
        from_threads = self._from_threads
        self._asleep = True
        # Set before the deques are checked: a thread that adds a callback after the check sends the wake-up byte.
        if ready or from_threads or self._stopping:
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
        # Only callbacks added before this point: a callback that re-adds itself must not starve the others.
        for _ in range(len(from_threads)):
            self._call(from_threads.popleft())
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
