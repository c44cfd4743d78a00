"""Unsent: what follows a task and the broker did not accept yet, tried again with back-off.

1. Keeps attempts to send: callbacks of tasks that did not end by themselves, retries, dead letters.
2. Makes each again, at first after half a second and at most every ten, until it succeeds.
3. `Notices` logs one line a minute for each reason, however many messages there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from framework.api.backoff import Backoff
from framework.api.loop import Loop
from framework.worker.task_request import TaskRequest

logger = logging.getLogger(__name__)

_NOTICE_INTERVAL: Final = 60.0


class Notices:
    """Logs errors, each reason once a minute."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def error(self, reason: str, text: str, *arguments: object) -> None:
        """Log `text`, unless an error with the same `reason` was logged within the last minute."""
        now = time.monotonic()
        self._logged = {known: since for known, since in self._logged.items() if now - since < _NOTICE_INTERVAL}
        if reason not in self._logged:
            self._logged[reason] = now
            logger.error(text, *arguments)


class Attempt(NamedTuple):
    """One attempt; `make` returns whether it succeeded. `request`: the task whose message it settles."""

    make: Callable[[], bool]
    request: TaskRequest | None


class Unsent:
    """Attempts to repeat. Used in the loop only."""

    def __init__(self, loop: Loop, on_change: Callable[[], object]) -> None:
        self._loop = loop
        self._on_change = on_change
        #: Changed in place: `Settle.unsent` is this list.
        self.attempts: list[Attempt] = []
        self._backoff = Backoff(jitter=0.0)

    def requests(self) -> Iterator[TaskRequest]:
        """Yield the requests whose messages are not settled yet."""
        return (attempt.request for attempt in self.attempts if attempt.request is not None)

    def add(self, make: Callable[[], bool], request: TaskRequest | None = None) -> None:
        """Call `make` until it returns True."""
        if not self.attempts:
            self._loop.call_later(self._backoff.next(), self._repeat)
        self.attempts.append(Attempt(make, request))

    def _repeat(self) -> None:
        left = [attempt for attempt in self.attempts if not attempt.make()]
        if len(left) < len(self.attempts):
            self._backoff.reset()
        self.attempts[:] = left
        if left:
            self._loop.call_later(self._backoff.next(), self._repeat)
        self._on_change()
