"""Raising an exception in the code of a task from outside: by another thread, a signal handler or a hub.

An exception that is raised just after a lock was taken, or just before it is released, leaves the lock taken for ever.
`Gate.admits` says whether an exception may be raised where a task is right now. It refuses everything outside of the
task's own function, and the places at which code takes and releases locks, by the names of functions. A caller
that is refused asks again a few milliseconds later: code leaves such a place soon, unless it waits for the lock.
"""

from __future__ import annotations

import _weakrefset
import dis
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Final

#: Returns the frame of the task's own function that has called the code of a frame, directly or not; None: none has.
TaskFrame = Callable[[FrameType], FrameType | None]

#: Seconds until an interrupt that was refused is tried again: at first, and at most; each wait is a fifth longer.
_RETRY_FIRST: Final = 0.005
_RETRY_MAX: Final = 0.1
_RETRY_GROWTH: Final = 1.2
#: Interrupts refused in a row (0.36 s) because of the same call of a function that seems to take or release a lock. It
#: does something else, such as waiting for a network.
REFUSALS_MAX: Final = 15

#: Calls that take a lock.
_TAKING: Final = re.compile(r"acquire|^_*enter(_|$)|^_*f?lockf?$", re.IGNORECASE)
#: Functions that take or release a lock; in a finalizer an exception would be lost.
_LOCK_CODE: Final = re.compile(r".*acquire.*|_*(a?enter|a?exit|release|unlock|del)(_.*|lock)?")
#: Waits for a lock of its own that nobody else takes.
_CONDITION_WAIT: Final = threading.Condition.wait.__code__
#: The import system's locks.
_IMPORTS: Final = "<frozen importlib._bootstrap>"
#: Callbacks of weak references, in which an exception would be lost, as in a finalizer.
_WEAK: Final = (weakref.__file__, _weakrefset.__file__)


class Gate:
    """Says for one slot, interrupt by interrupt, whether an exception may be raised where its task is."""

    def __init__(self, waits_after: int | None) -> None:
        """`waits_after`: how often in a row the task must be found at the same taking of a lock to be waiting there.

        The wait for a lock can be interrupted, its end cannot. None: the exception would be raised at the end.
        """
        self._waits_after = waits_after
        #: Where the last interrupt was refused, and how many in a row were for the same reason.
        self._place: tuple[FrameType | None, int] = (None, 0)
        self._refused = 0

    def admits(self, frame: FrameType, offset: int, task_frame: TaskFrame) -> bool:
        """Return whether an exception may be raised in the code of `frame`, the innermost, at `offset` (`f_lasti`)."""
        top = task_frame(frame)
        if top is None:
            return False
        if frame.f_code is not _CONDITION_WAIT and offset in _taking_calls(frame.f_code):
            place, most = (frame, offset), self._waits_after
        elif (inside := _lock_code(frame, top)) is not None:
            place, most = (inside, 0), REFUSALS_MAX
        else:
            return True
        self._refused = self._refused + 1 if place == self._place else 0
        self._place = place
        return most is not None and self._refused >= most


def _lock_code(frame: FrameType | None, top: FrameType) -> FrameType | None:
    """Return the frame of a function that takes or releases a lock, between `frame` and `top`; None: there is none."""
    if frame is not None and frame.f_code.co_filename == _IMPORTS:
        return frame
    while frame is not None and frame is not top:
        code = frame.f_code
        if _LOCK_CODE.fullmatch(code.co_name.lower()) or code.co_filename in _WEAK:
            return frame
        frame = frame.f_back
    return None


@lru_cache(maxsize=1024)
def _taking_calls(code: CodeType) -> frozenset[int]:
    """Return the offsets of the calls in `code` that take a lock, by the name of what they call."""
    names = (*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)
    if not any(map(_TAKING.search, names)):
        return frozenset()
    offsets = set()
    loaded: dict[Any, str] = {}
    for instruction in dis.get_instructions(code):
        # What is called begins where the call begins; its arguments come after.
        begin = instruction.positions and instruction.positions[::2]
        if instruction.opname.startswith("LOAD_"):
            loaded[begin] = str(instruction.argval)
        elif "CALL" in instruction.opname and (
            begin is None or None in begin or _TAKING.search(loaded.get(begin, "acquire"))
        ):
            offsets.add(instruction.offset)
    return frozenset(offsets)


def unpacking_calls(function: Callable[..., Any]) -> frozenset[int]:
    """Return the offsets (`f_lasti`) at which `function` makes calls with unpacked arguments, as in ``call(*args)``."""
    return frozenset(
        instruction.offset
        for instruction in dis.get_instructions(function)
        if instruction.opname.startswith("CALL_FUNCTION_EX")
    )


def retry_delays() -> Iterator[float]:
    """Yield the seconds until each further try of an interrupt that was refused."""
    delay = _RETRY_FIRST
    while True:
        yield delay
        delay = min(delay * _RETRY_GROWTH, _RETRY_MAX)
