"""Waiting for events, never for fixed times.

1. `wait_for` asks a question again and again, at first every millisecond, then more rarely, until the answer is true.
2. When the deadline passes it fails the test and says what it waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.1


def wait_for(predicate: Callable[[], T], timeout: float = 10, message: str | Callable[[], str] = "") -> T:
    """Return the first true answer of `predicate`; fail after `timeout` seconds.

    `message` says what was waited for; a callable is asked at the end, so it can tell how far things got.
    """
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        answer = predicate()
        if answer:
            return answer
        left = deadline - time.monotonic()
        if left <= 0:
            text = message() if callable(message) else message
            raise AssertionError(f"waited {timeout:g} s for {text or repr(predicate)}; the last answer was {answer!r}")
        time.sleep(min(pause, left))
        pause = min(pause * 2, LONGEST_PAUSE)
