"""Shared rate limits: reserves the start times of cluster-wide limits.

1. Reserves in its own thread, started with the first reservation, so that a slow store does not block the loop.
2. Retries while the store is away, and logs that once; tasks under these limits wait meanwhile.
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


class _Reservation(NamedTuple):
    name: str
    interval: float
    starts: int
    deliver: Callable[[float], object]


class SharedRateLimits:
    """Reserves start times in the `SharedRateLimit` of one transport."""

    def __init__(self, loop: Loop, transport: Transport) -> None:
        self._loop = loop
        self._transport = transport
        # Not a SimpleQueue: its wait would block all greenlets of the process.
        self._reservations: queue.Queue[_Reservation | None] = queue.Queue()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def transport(self) -> Transport:
        """The transport whose store keeps the counts."""
        return self._transport

    def ask(self, name: str, interval: float, count: int, deliver: Callable[[float], object]) -> None:
        """Reserve the next `count` starts of `name`; call `deliver` in the loop with the seconds until the first."""
        self._reservations.put(_Reservation(name, interval, count, deliver))
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="framework-rate-limits", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread; from any thread, harmless when closed."""
        self._closed.set()
        self._reservations.put(None)
        if self._thread is not None:
            self._thread.join(1.0)

    def _serve(self) -> None:
        limit: SharedRateLimit | None = None
        backoff = Backoff()
        while (reservation := self._reservations.get()) is not None:
            while not self._closed.is_set():
                try:
                    if limit is None:
                        limit = self._transport.shared_rate_limit()
                    wait = limit.reserve(reservation.name, reservation.interval, reservation.starts)
                except TransportError as error:
                    if not backoff.attempts:
                        logger.error("Cluster-wide rate limits cannot be counted, and their tasks wait: %s", error)
                    if limit is not None:
                        limit.close()
                        limit = None
                    self._closed.wait(backoff.next())
                    continue
                if backoff.attempts:
                    logger.info("Cluster-wide rate limits can be counted again")
                    backoff.reset()
                self._loop.call_soon_threadsafe(reservation.deliver, wait)
                break
        if limit is not None:
            limit.close()


def find_store(settings: Any, broker: Transport) -> Transport | None:
    """Return the transport that counts cluster-wide limits: `rate_limit_store`, the broker, or the result store.

    Raises `ConfigError` when `rate_limit_store` cannot count; returns None when neither of the others can.
    """
    named = settings.task.rate_limit_store
    if named:
        transport = loader.make_transport(settings, named)
        if not transport.traits.shared_rate_limit:
            raise ConfigError(
                f"rate_limit_store under [task] is {transport.display_url}, which cannot count for a cluster: "
                "set it to the URL of a Redis server or an SQLite file"
            )
        return transport
    if broker.traits.shared_rate_limit:
        return broker
    try:
        results = loader.make_transport(settings, settings.result.backend) if settings.result.backend else None
    except FrameworkError:
        return None  # the result store is not a transport
    return results if results is not None and results.traits.shared_rate_limit else None
