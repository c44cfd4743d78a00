"""Coroutines of `async def` tasks in threads without an event loop.

1. `run_here` runs a coroutine to its end on the asyncio runner of this thread, which is kept between tasks. A green
   library runs many tasks in one thread, and a thread has one running loop: there all coroutines share one loop, in a
   greenlet of its own.
2. `interrupt` ends the coroutine of a thread, from another thread or from a signal handler.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import selectors
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any

from framework._config.making import making
from framework.api.coroutine import STEPS as STEPS
from framework.api.coroutine import Call, inside
from framework.api.originals import is_replaced
from framework.exceptions import SoftTimeLimitExceeded

_local = threading.local()
#: Running coroutines, by thread.
_running: dict[int, tuple[asyncio.AbstractEventLoop, Call]] = {}
#: Process id, the loop for the coroutines of greenlets, and the identifier of the greenlet that runs it.
_shared: tuple[int, asyncio.AbstractEventLoop, int] | None = None


async def _boxed(call: Call, coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    # Returned, not raised: a SystemExit from an asyncio task would stop its loop.
    try:
        return await call.drive(coroutine), None
    except BaseException as error:  # noqa: BLE001 - raised again by `run_here`
        return None, error


def run_here(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run `coroutine` in this thread and return its value."""
    if is_replaced():
        return _run_for_greenlet(coroutine)
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
    return _opened(value, error)


def _opened(value: Any, error: BaseException | None) -> Any:
    """Return `value`, or raise `error`."""
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
    return _opened(*box[0])


def _run_for_greenlet(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run `coroutine` in the loop of all greenlets, while they go on."""
    loop, ident = _green_loop()
    call, context = Call(), contextvars.copy_context()
    if threading.get_ident() == ident:  # an eager run, in a coroutine of that loop: the loop waits
        asyncio._set_running_loop(None)
        try:
            with asyncio.Runner() as runner:
                value, error = runner.run(_boxed(call, coroutine), context=context)
        finally:
            asyncio._set_running_loop(loop)
        return _opened(value, error)
    box: list[tuple[Any, BaseException | None]] = []
    ended = threading.Event()

    def begin() -> None:
        loop.create_task(_boxed(call, coroutine), context=context).add_done_callback(end)

    def end(task: asyncio.Task[tuple[Any, BaseException | None]]) -> None:
        box.append(task.result())
        ended.set()

    loop.call_soon_threadsafe(begin)
    while not box:
        try:
            wait(ended)
        except BaseException as error:
            loop.call_soon_threadsafe(call.interrupt, type(error))
            if not isinstance(error, SoftTimeLimitExceeded):
                raise
            # The coroutine decides what comes of a soft limit.
    return _opened(*box[0])


def wait(ended: threading.Event) -> None:
    """Wait until a coroutine has ended, in its greenlet; the exceptions of limits are raised here."""
    ended.wait()


def _green_loop() -> tuple[asyncio.AbstractEventLoop, int]:
    """Return the loop for the coroutines of greenlets, and the identifier of the greenlet that runs it."""
    global _shared
    with making():
        if _shared is None or _shared[0] != os.getpid():

            class GreenSelector(selectors.DefaultSelector):
                """While it waits, other greenlets of this thread see no running loop, and may run their own."""

                def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
                    asyncio._set_running_loop(None)
                    try:
                        return super().select(timeout)
                    finally:
                        asyncio._set_running_loop(loop)

            loop = asyncio.SelectorEventLoop(GreenSelector())
            greenlet = threading.Thread(target=loop.run_forever, name="coroutines", daemon=True)
            greenlet.start()
            assert greenlet.ident is not None
            _shared = (os.getpid(), loop, greenlet.ident)
        return _shared[1:]


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
