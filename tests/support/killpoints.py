"""The sample application in a worker that kills itself at a point of a task's way.

TEST_KILL_AT is ``<point>:<passing>``. `POINTS` says what is done just before the kill, and what is not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Final

from framework.worker.settle.settle import Settle
from framework_results.redis import RedisStore
from framework_results.sqlite import SqliteStore
from framework_transports.amqp.consumer import AmqpConsumer
from framework_transports.redis.consumer import RedisConsumer
from framework_transports.sqlite.consumer import SqliteConsumer
from support.proj import app, make_app

__all__ = ["POINTS", "app", "make_app"]

_CONSUMERS: Final = (RedisConsumer, SqliteConsumer, AmqpConsumer)
#: For each point: where, and whether the kill comes before or after what is done there.
POINTS: Final[dict[str, tuple[tuple[type[Any], ...], str, bool]]] = {
    # The broker has lent messages, the worker knows nothing of them yet.
    "reserve": (_CONSUMERS, "fetch", False),
    # A task has begun.
    "start": ((Settle,), "started", True),
    # It has ended; nothing is stored, nothing is acknowledged.
    "finish": ((Settle,), "finished", True),
    # Its result is stored.
    "result": ((RedisStore, SqliteStore), "store", False),
    # Acks are noted, and not sent.
    "ack": (_CONSUMERS, "fetch", True),
    # Acks are sent.
    "acked": (_CONSUMERS, "flush", False),
}


class _Point:
    def __init__(self, passing: int) -> None:
        self._left = passing

    def pass_by(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, kind: type[Any], name: str, *, before: bool) -> None:
        inner: Callable[..., Any] = getattr(kind, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.pass_by()
            done = inner(*args, **kwargs)
            # A fetch that found nothing is no point of anything's way.
            if not before and done != []:
                self.pass_by()
            return done

        setattr(kind, name, outer)


if "TEST_KILL_AT" in os.environ:
    _name, _, _passing = os.environ["TEST_KILL_AT"].partition(":")
    _kinds, _method, _before = POINTS[_name]
    _point = _Point(int(_passing))
    for _kind in _kinds:
        _point.wrap(_kind, _method, before=_before)
