"""The stacks of all threads, greenlets and asyncio tasks of this process, as text; for USR1.

Source of the layout: the guide: a name, a line of ``=``, the stack, and the local variables of its innermost frame.
"""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Final

_WIDTH: Final = 49
#: Characters of a variable's repr that are shown.
_SHOWN: Final = 300


def stacks() -> str:
    """Return the stacks, with the local variables of each innermost frame. Called in the main thread."""
    parts: list[str] = []
    threads = {thread.ident: thread.name for thread in threading.enumerate()}
    here = sys._getframe()
    for ident, frame in sys._current_frames().items():
        # Green libraries change the thread idents, but the calling thread is always the main thread.
        name = "MainThread" if frame is here else threads.get(ident, f"Thread {ident}")
        parts += _section(name, [found for found, _line in traceback.walk_stack(frame)][::-1])
    for name, frames in (*_greenlets(), *_tasks()):
        parts += _section(name, frames)
    return "\n".join([*parts, "=" * _WIDTH, " END", "=" * _WIDTH, ""])


def _section(name: str, frames: Sequence[FrameType]) -> Iterator[str]:
    """Yield the lines of one stack; `frames` ends with the innermost."""
    yield name
    yield "=" * _WIDTH
    summary = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    yield "".join(summary.format()).rstrip()
    yield "=" * _WIDTH
    yield "LOCAL VARIABLES"
    yield "=" * _WIDTH
    for variable, value in sorted(frames[-1].f_locals.items()):
        yield f"{variable}: {_show(value)}"
    yield ""


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a repr may fail in any way, and the program may be broken
        text = f"<{type(value).__qualname__}, whose repr raises {type(error).__qualname__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _greenlets() -> Iterator[tuple[str, list[FrameType]]]:
    """Yield the suspended greenlets; a running one is in its thread's stack."""
    library = sys.modules.get("greenlet")
    if library is None:
        return
    for found in gc.get_objects():
        # By type, not isinstance: a proxy's `__class__` may run anything.
        if issubclass(type(found), library.greenlet) and found and found.gr_frame is not None:
            frames = [frame for frame, _line in traceback.walk_stack(found.gr_frame)][::-1]
            yield f"{type(found).__name__} {getattr(found, 'name', hex(id(found)))}", frames


def _tasks() -> Iterator[tuple[str, list[FrameType]]]:
    library = sys.modules.get("asyncio")
    if library is None:
        return
    for found in gc.get_objects():
        if issubclass(type(found), library.Task) and not found.done():
            frames = list(_awaited(found.get_coro()))
            if frames:
                yield f"asyncio {found.get_name()}", frames


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames from a coroutine to the innermost coroutine that it awaits."""
    while (frame := getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)) is not None:
        yield frame
        awaited = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        # `framework.api.coroutine.Call` drives a task's coroutine itself and keeps it in a variable.
        coroutine = awaited if awaited is not None else frame.f_locals.get("coroutine")
