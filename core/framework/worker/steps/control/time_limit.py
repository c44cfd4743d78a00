"""The time limit of remote-control commands, which run in the loop and hold it up.

1. `run_limited` calls a function and raises `CommandTimeout` in it when its time is up, between two bytecodes: a call
   into C, such as a sleep, ends first.
2. A thread raises it. Under a green pool, where tasks share the loop's thread, a trace function of the command does.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

from framework.api.originals import is_replaced

T = TypeVar("T")

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.py_object]


class CommandTimeout(BaseException):
    """Ends a command; no `Exception`, so that the command does not catch it by accident."""


def run_limited(seconds: float, function: Callable[..., T], *args: Any) -> T:
    """Return ``function(*args)``. Raises `CommandTimeout` when it has run for `seconds`; 0: no limit."""
    if not seconds:
        return function(*args)
    return (_traced if is_replaced() else _watched)(seconds, function, *args)


def _watched(seconds: float, function: Callable[..., T], *args: Any) -> T:
    ident = threading.get_ident()
    guard = threading.Lock()
    ended = sent = False

    def interrupt() -> None:
        nonlocal sent
        with guard:
            if not ended:
                sent = True
                _set_async_exc(ident, CommandTimeout)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    raised = False
    try:
        return function(*args)
    except CommandTimeout:
        raised = True
        raise
    finally:
        timer.cancel()
        with guard:
            ended = True
        if sent and not raised:
            # It may be pending still. Clearing would leave the interpreter looking for it for good.
            _replace_pending(ident)


def _replace_pending(ident: int) -> None:
    try:
        _set_async_exc(ident, CommandTimeout)
        while True:
            pass
    except CommandTimeout:
        pass


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
