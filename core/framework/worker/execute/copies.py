"""Ends the copies of a process that tasks make with `os.fork`.

A copy has the connections and pipes of its original. If it left its task, it would report the task a second time and
take jobs that belong to the original. Inside the task it may do what it likes.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Final, Never

logger = logging.getLogger(__name__)

#: Seconds in which a copy must have logged its end: its original may have held a lock while it was copied.
_LOG_TIMEOUT: Final = 5


class Process:
    """This process."""

    def __init__(self) -> None:
        #: The pid of the process that ran a task when this copy of it was made; 0: this is no copy.
        self.copy_of = 0


#: An object, because each task asks several times: the interpreter reads an object's attribute faster than a class's.
process: Final = Process()


def _note_copy() -> None:
    process.copy_of = os.getppid()


os.register_at_fork(after_in_child=_note_copy)


def end_copy(where: str, error: BaseException | None = None) -> Never:
    """End this copy, which has left `where`, with the exit code of a program that returned or raised `error`."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LOG_TIMEOUT)
        logger.warning(
            "A copy of process %d, forked in %s, has left it%s: it ends here, and its original goes on; "
            "end copies with os._exit()",
            process.copy_of,
            where,
            "" if error is None else f" with {type(error).__name__}",
        )
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(code)
