"""Raising an exception in the code of a task that another thread runs, where `framework.api.interrupt` admits it.

`raise_in_thread` looks and raises in one step of the interpreter, so that the thread cannot move in between.
"""

from __future__ import annotations

import ctypes
import gc
import operator
import sys

from framework.api.interrupt import Gate, TaskFrame

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.py_object]
_set_async_exc.restype = ctypes.c_int
_clear_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


def raise_in_thread(ident: int, exception: type[BaseException], gate: Gate, task_frame: TaskFrame) -> bool:
    """Raise `exception` in the task that the thread `ident` runs, if `gate` admits it; return whether it did.

    Inside a call into C the exception is raised when the call returns.
    """
    frame = sys._current_frames().get(ident)
    if frame is None:
        return False
    offset = frame.f_lasti
    if not gate.admits(frame, offset, task_frame):
        return False
    # This thread may have lost the interpreter's lock meanwhile. Whether the other one still is where it was is asked,
    # and the exception set, within one call into C, in which nothing else can run.
    innermost = map(operator.itemgetter(ident), map(operator.call, (sys._current_frames,)))
    unmoved = map(operator.is_, innermost, (frame,))
    there = map(operator.eq, map(operator.attrgetter("f_lasti"), (frame,)), (offset,))
    # No thread has the number 0.
    sent = map(_set_async_exc, map(operator.mul, map(operator.and_, unmoved, there), (ident,)), (exception,))
    collects = gc.isenabled()
    gc.disable()  # finalizers would be Python code
    try:
        return bool(next(sent))
    except KeyError:  # the thread has ended
        return False
    finally:
        if collects:
            gc.enable()


def clear_exception(ident: int) -> None:
    """Take back the exceptions that `raise_in_thread` has set and the thread `ident` has not raised."""
    _clear_async_exc(ident, None)
