"""Patience: what has to be sent when a task ends waits for the broker, however long that is away.

The next task of a chain, a callback or a retry that cannot be sent would otherwise be lost, and with it the work that
leads up to it: nobody else knows of it. What a task sends by itself is its own affair: it is told, and can decide.

A coroutine is not patient: all others in its loop would have to wait with it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from framework.exceptions import ConnectionLost

logger = logging.getLogger(__name__)

_PAUSE_FIRST: Final = 0.2
#: Less than the turn to send a chord's body lasts: who has that tries again in time.
_PAUSE_MAX: Final = 2.0

_patient: ContextVar[bool] = ContextVar("framework_patient", default=False)


@contextmanager
def patiently() -> Iterator[None]:
    """Have what is sent in the block wait for the broker."""
    token = _patient.set(True)
    try:
        yield
    finally:
        _patient.reset(token)


def patient() -> bool:
    """Whether what is sent here waits for the broker."""
    return _patient.get() and not _in_event_loop()


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each new try, without end."""
    pause = _PAUSE_FIRST
    while True:
        yield pause
        pause = min(pause * 2, _PAUSE_MAX)


def insist(action: Callable[[], object], what: str) -> None:
    """Do `action`, and again until no connection is missing for it, if there is patience here.

    It may be done more than once. Raises `ConnectionLost` if there is none, and whatever else `action` raises.
    """
    told = False
    for pause in pauses():
        try:
            action()
        except ConnectionLost as error:
            if not patient():
                raise
            if not told:
                logger.warning("%s: waits until the connection is back: %s", what, error)
                told = True
            time.sleep(pause)
        else:
            return


def _in_event_loop() -> bool:
    # Not imported here: a process that runs no coroutine does not load asyncio.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
