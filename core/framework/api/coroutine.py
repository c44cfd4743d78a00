"""`Call`: one run of an `async def` task that can be interrupted where it awaits.

1. `Call.drive` runs a coroutine inside the asyncio task that awaits it.
2. `Call.interrupt`, in the loop's thread, wakes the coroutine. A soft limit arrives as an exception that is both
   `SoftTimeLimitExceeded` and `asyncio.CancelledError`, so that task groups and time-outs clean up as for any
   cancellation and a task can still catch it by its own name. Anything else arrives as a plain cancellation.
3. `drive` raises the exception passed to `interrupt`; any other cancellation is a failure of the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import FrameType
from typing import Any, Final, TypeVar, cast

from framework.exceptions import SoftTimeLimitExceeded

R = TypeVar("R")


class _SoftCancelled(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The exception of the soft limit inside a coroutine."""


class Call:
    """One run of a coroutine."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._pending: type[BaseException] | None = None
        self._ended_by: type[BaseException] | None = None

    async def drive(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run `coroutine` to its end."""
        self._task = asyncio.current_task()
        try:
            return cast("R", await _Steps(self, coroutine))
        except _SoftCancelled as error:
            raise SoftTimeLimitExceeded(*error.args).with_traceback(error.__traceback__) from None
        except asyncio.CancelledError as error:
            if self._ended_by is not None:
                raise self._ended_by from None
            raise RuntimeError(
                "the task's coroutine was cancelled from within and did not catch the CancelledError"
            ) from error
        finally:
            self._task = None

    def interrupt(self, exception: type[BaseException]) -> None:
        """Raise `exception` in the coroutine, if it still runs; call it in the thread of its loop."""
        if self._task is not None:
            self._pending = exception
            self._task.cancel()

    def translate(self, error: asyncio.CancelledError) -> asyncio.CancelledError:
        """Return the exception that the coroutine gets in place of `error`."""
        pending, self._pending = self._pending, None
        if pending is None:
            return error
        if self._task is not None:
            # The interruption has been delivered: the cleanup of the coroutine may await as usual.
            self._task.uncancel()
        if issubclass(pending, SoftTimeLimitExceeded):
            return _SoftCancelled()
        self._ended_by = pending
        return error


class _Steps:
    """Runs a coroutine as ``await`` does, and translates the cancellations that it gets."""

    def __init__(self, call: Call, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._call = call
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        error: BaseException | None = None
        try:
            while True:
                try:
                    awaited = coroutine.send(None) if error is None else coroutine.throw(error)
                except StopIteration as done:
                    return done.value
                error = None
                try:
                    yield awaited
                except asyncio.CancelledError as cancelled:
                    error = self._call.translate(cancelled)
                except Exception as failed:  # noqa: BLE001 - passed on to the coroutine
                    error = failed
        finally:
            coroutine.close()


#: The code that runs the steps of a driven coroutine.
STEPS: Final = _Steps.__await__.__code__


def inside(frame: FrameType | None) -> bool:
    """Return whether a driven coroutine called the code of `frame`, so that an exception may be raised there."""
    frame = frame.f_back if frame is not None and frame.f_code is not STEPS else None
    while frame is not None:
        if frame.f_code is STEPS:
            return True
        frame = frame.f_back
    return False
