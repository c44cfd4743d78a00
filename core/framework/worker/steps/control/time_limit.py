"""The time limit of remote-control commands, which run in the loop and hold it up.

1. `run_limited` calls a function and raises `CommandTimeout` in it when its time is up, where no lock is lost, see
   `framework.api.interrupt`. A call into C, such as a sleep, ends first.
2. A thread raises it. Under a green pool, where tasks share the loop's thread, a trace function of the command does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any, Final, TypeVar

from framework.api.interrupt import Gate, retry_delays, unpacking_calls
from framework.api.originals import is_replaced
from framework.api.thread_interrupt import raise_in_thread

T = TypeVar("T")


class CommandTimeout(BaseException):
    """Ends a command; no `Exception`, so that the command does not catch it by accident."""


def run_limited(seconds: float, function: Callable[..., T], *args: Any) -> T:
    """Return ``function(*args)``. Raises `CommandTimeout` when it has run for `seconds`; 0: no limit."""
    if not seconds:
        return function(*args)
    return (_traced if is_replaced() else _watched)(seconds, function, *args)


def _watched(seconds: float, function: Callable[..., T], *args: Any) -> T:
    ident = threading.get_ident()
    ended = threading.Event()

    def interrupt() -> None:
        gate, delays = Gate(None), retry_delays()
        pause = seconds
        while not ended.wait(pause):
            if raise_in_thread(ident, CommandTimeout, gate, _command_frame):
                return
            pause = next(delays)

    watcher = threading.Thread(target=interrupt, name="command time limit", daemon=True)
    watcher.start()
    try:
        return function(*args)
    finally:
        ended.set()
        # Afterwards nothing can be raised any more, and what was raised has been: only code of the command is hit.
        watcher.join()


def _command_frame(frame: FrameType) -> FrameType | None:
    """Return the frame of the command that has called the code of `frame`; None: it is over."""
    while (caller := frame.f_back) is not None:
        if caller.f_code is _watched.__code__:
            return frame if caller.f_lasti in _COMMAND_CALLS else None
        frame = caller
    return None


#: Where `_watched` calls the command: the one call with unpacked arguments.
_COMMAND_CALLS: Final = unpacking_calls(_watched)


def _traced(seconds: float, function: Callable[..., T], *args: Any) -> T:
    deadline = monotonic() + seconds

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        # The frames of a hub, or of a task that runs meanwhile, are traced as well.
        if monotonic() > deadline and _is_running(frame):
            raise CommandTimeout
        # A loop of one line has no events of lines.
        frame.f_trace_opcodes = True
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        return function(*args)
    finally:
        sys.settrace(former)


def _is_running(frame: FrameType | None) -> bool:
    """Return whether `frame` was called, directly or not, by `_traced`."""
    while frame is not None and frame.f_code is not _traced.__code__:
        frame = frame.f_back
    return frame is not None
