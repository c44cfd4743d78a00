"""Contract of the worker's event loop.

The loop runs in one thread (under green pools in a greenlet). All code that uses the broker or a pool's pipes runs
in it. Call all methods but `call_soon_threadsafe` from callbacks of the loop only; `running` may be read anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call; harmless when it has run."""


class Loop(Protocol):
    """The methods of the loop that plugins may use."""

    @property
    def running(self) -> bool:
        """Whether the loop runs; if not, scheduled callbacks wait until it does."""

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
