"""Coroutines of `async def` tasks in threads without an event loop.

1. `run_here` runs a coroutine to its end on the asyncio runner of this thread, which is kept between tasks.
2. `interrupt` ends the coroutine of a thread, from another thread or from a signal handler.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any

from framework.api.coroutine import Call, inside

_local = threading.local()
#: Running coroutines, by thread.
_running: dict[int, tuple[asyncio.AbstractEventLoop, Call]] = {}


async def _boxed(call: Call, coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    # Returned, not raised: a SystemExit from an asyncio task would stop its loop.
    try:
        return await call.drive(coroutine), None
    except BaseException as error:  # noqa: BLE001 - raised again by `run_here`
        return None, error


def run_here(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run `coroutine` in this thread and return its value."""
    if asyncio._get_running_loop() is not None:
        return _run_beside(coroutine)
    runner: asyncio.Runner | None = getattr(_local, "runner", None)
    if runner is None:
        runner = _local.runner = asyncio.Runner()
    call, ident = Call(), threading.get_ident()
    try:
        _running[ident] = (runner.get_loop(), call)
        value, error = runner.run(_boxed(call, coroutine), context=contextvars.copy_context())
    except BaseException:  # raised again after the clean-up
        # Interrupted outside of the coroutine: its remains in the loop must not affect the next task.
        close_here()
        raise
    finally:
        _running.pop(ident, None)
    if error is not None:
        raise error
    return value


def _run_beside(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run `coroutine` in a new thread, because a loop runs in this one."""
    box: list[tuple[Any, BaseException | None]] = []
    context = contextvars.copy_context()

    def run() -> None:
        with asyncio.Runner() as runner:
            box.append(runner.run(_boxed(Call(), coroutine), context=context))

    thread = threading.Thread(target=run, name="eager-coroutine")
    thread.start()
    thread.join()
    value, error = box[0]
    if error is not None:
        raise error
    return value


def close_here() -> None:
    """Close the runner of this thread, if any."""
    runner: asyncio.Runner | None = getattr(_local, "runner", None)
    _local.runner = None
    if runner is not None:
        runner.close()


def interrupt(ident: int, exception: type[BaseException], frame: FrameType | None = None) -> bool:
    """End the coroutine of the thread `ident` with `exception`; see `AsyncWorkload.interrupt`."""
    running = _running.get(ident)
    if running is None or (frame is not None and inside(frame)):
        return False
    loop, call = running
    try:
        loop.call_soon_threadsafe(call.interrupt, exception)
    except RuntimeError:  # the loop was closed meanwhile
        return False
    return True
