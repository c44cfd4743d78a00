"""The keeper of the turnstile: asks for the starts of limits that are the whole cluster's.

1. Has a thread of its own, begun with the first question: a store that does not answer must not hold up the loop.
2. While the store is away it asks again and again, and says so once; limited tasks wait meanwhile, all others go on.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from framework._boot import loader
from framework.api.backoff import Backoff
from framework.api.loop import Loop
from framework.api.transport import SharedRateLimit, Transport
from framework.exceptions import ConfigError, FrameworkError, TransportError

logger = logging.getLogger(__name__)


class _Question(NamedTuple):
    name: str
    interval: float
    starts: int
    deliver: Callable[[float], object]


class SharedRateLimits:
    """Asks the turnstile of one transport."""

    def __init__(self, loop: Loop, transport: Transport) -> None:
        self._loop = loop
        self._transport = transport
        # Not a SimpleQueue, whose wait would stop a whole process of greenlets.
        self._questions: queue.Queue[_Question | None] = queue.Queue()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def transport(self) -> Transport:
        """What the counts are kept with."""
        return self._transport

    def ask(self, name: str, interval: float, count: int, deliver: Callable[[float], object]) -> None:
        """Ask for the next `count` starts of `name`; `deliver` is told in the loop in how many seconds they begin."""
        self._questions.put(_Question(name, interval, count, deliver))
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="framework-turnstile", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ask no more; from any thread, harmless when closed."""
        self._closed.set()
        self._questions.put(None)
        if self._thread is not None:
            self._thread.join(1.0)

    def _serve(self) -> None:
        limit: SharedRateLimit | None = None
        backoff = Backoff()
        while (question := self._questions.get()) is not None:
            while not self._closed.is_set():
                try:
                    if limit is None:
                        limit = self._transport.shared_rate_limit()
                    wait = limit.reserve(question.name, question.interval, question.starts)
                except TransportError as error:
                    if not backoff.attempts:
                        logger.error("Tasks whose rate limit is the cluster's wait until it can be counted: %s", error)
                    if limit is not None:
                        limit.close()
                        limit = None
                    self._closed.wait(backoff.next())
                    continue
                if backoff.attempts:
                    logger.info("The rate limits of the cluster can be counted again")
                    backoff.reset()
                self._loop.call_soon_threadsafe(question.deliver, wait)
                break
        if limit is not None:
            limit.close()


def find_store(settings: Any, broker: Transport) -> Transport | None:
    """Return what can count for the whole cluster: what was named for it, else the broker, else the result store.

    Raises `ConfigError` when what was named cannot.
    """
    named = settings.task.rate_limit_store
    if named:
        transport = loader.make_transport(settings, named)
        if not transport.traits.shared_rate_limit:
            raise ConfigError(
                f"rate_limit_store under [task] is {transport.display_url}, which cannot count for a cluster: "
                "name a Redis or an SQLite file"
            )
        return transport
    if broker.traits.shared_rate_limit:
        return broker
    try:
        results = loader.make_transport(settings, settings.result.backend) if settings.result.backend else None
    except FrameworkError:
        return None  # a store that is no transport
    return results if results is not None and results.traits.shared_rate_limit else None
