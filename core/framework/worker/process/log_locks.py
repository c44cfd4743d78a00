"""Locks of the log in a process whose threads run tasks: no task can keep the worker, or other tasks, from logging.

A thread may keep a lock of the log although it does not log: a task took the lock itself and hangs, or was ended where
nothing could release it. `LogLock` finds that out after a while, and is free again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from typing import Any, Final

logger = logging.getLogger(__name__)

#: Seconds to wait for a lock before its owner is looked at.
_WAIT: Final = 0.25
_LOGGING: Final = os.path.dirname(logging.__file__)


class LogLock:
    """A reentrant lock that is replaced when its owner neither releases it nor logs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def acquire(self) -> bool:
        """Take the lock."""
        lost = False
        while not self._lock.acquire(timeout=_WAIT):
            # The one place where the lock tells its owner.
            owner = re.search(r"owner=(\d+)", repr(self._lock))
            if owner is not None and int(owner[1]) and not _logs(int(owner[1])):
                self._lock, lost = threading.RLock(), True
        if lost:
            logger.warning("A task has kept a lock of the log and does not log: the log goes on without that lock")
        return True

    def release(self) -> None:
        """Release the lock."""
        with contextlib.suppress(RuntimeError):  # it was replaced meanwhile
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._lock = threading.RLock()


def _logs(ident: int) -> bool:
    """Return whether the thread `ident` runs code of a log handler."""
    frame = sys._current_frames().get(ident)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_LOGGING):
            return True
        frame = frame.f_back
    return False


_create_lock = logging.Handler.createLock


def _create_log_lock(handler: logging.Handler) -> None:
    _create_lock(handler)
    _replace(handler)


def _replace(handler: Any) -> None:
    if isinstance(handler.lock, type(threading.RLock())):
        handler.lock = LogLock()


def install() -> None:
    """Give the log, and each of its handlers from now on, a `LogLock`; call it before tasks run."""
    logging.Handler.createLock = _create_log_lock  # type: ignore[method-assign,assignment]
    for reference in logging._handlerList:  # type: ignore[attr-defined]
        if (handler := reference()) is not None:
            _replace(handler)
    logging._lock = LogLock()  # type: ignore[attr-defined]
