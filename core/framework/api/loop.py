"""The worker's event loop as plugins see it.

One loop turns in one thread (a greenlet under green pools). Everything that touches the broker or a pool's
pipes runs in it. All methods but `call_soon_threadsafe` must be called from the loop itself;
`running` may be read anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Forget the call; harmless when it has run."""


class Loop(Protocol):
    """What a plugin may ask of the loop."""

    @property
    def running(self) -> bool:
        """The loop turns. False before it has begun and once it has ended: what is asked of it then waits."""

    def time(self) -> float:
        """Return the loop's clock, in seconds (monotonic)."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on the next turn, in the order of the calls."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """Like `call_soon`, from any thread or signal handler; wakes the loop."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Run `callback(*args)` after `delay` seconds."""

    def call_every(self, interval: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Run `callback(*args)` on the next turn and then every `interval` seconds, until the timer is cancelled."""

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on every turn on which `fd` is readable. Replaces an earlier reader of `fd`."""

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd` for reading; harmless when it is not watched."""

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Run `callback(*args)` on every turn on which `fd` is writable. Replaces an earlier writer of `fd`."""

    def remove_writer(self, fd: int) -> None:
        """Stop watching `fd` for writing; harmless when it is not watched."""
