"""Waits for conditions instead of fixed times.

1. `wait_for` calls a predicate, at first every millisecond, then less often, until its result is true.
2. At the deadline it fails the test with a message that names the condition.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.1


def wait_for(predicate: Callable[[], T], timeout: float = 10, message: str | Callable[[], str] = "") -> T:
    """Return the first true result of `predicate`; fail after `timeout` seconds.

    `message` names the condition; a callable is called at the deadline, so it can include the current state.
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
