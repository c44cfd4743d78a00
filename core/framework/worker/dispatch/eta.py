"""ETA: reads the times `eta` and `expires` of a message, and decides which messages to park.

The times are ISO 8601; without a zone they are UTC.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from framework.exceptions import MessageUndecodable

if TYPE_CHECKING:
    from framework._config.settings import WorkerSettings


def timestamp(value: str | float, name: str) -> float:
    """Return `value` (ISO 8601, or seconds since the epoch) in seconds since the epoch. Raises `MessageUndecodable`."""
    if isinstance(value, (int, float)):
        return float(value)
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError) as error:
        raise MessageUndecodable(f"the header {name!r} is not an ISO 8601 time: {value!r}") from error


class EtaPolicy:
    """Decides whether an eta is far enough ahead to park the message in the broker, and until when."""

    def __init__(self, worker: WorkerSettings) -> None:
        self._near = worker.eta_park_after
        # Some revokes cannot recall a parked task (revokes by stamps; brokers without recall; a worker that was down).
        # Each task therefore returns at least once while a revoke is remembered: after at most half that time, spread
        # out so that not all return at once.
        self._longest = max(worker.eta_park_after, worker.revoke_expires / 2, 1.0)

    def until(self, eta: str) -> float | None:
        """Return until when to park a message due at `eta` (s since the epoch); None: `eta` is near or past.

        Raises `MessageUndecodable`.
        """
        ahead = timestamp(eta, "eta") - (now := time.time())
        return now + min(ahead, self._longest * random.uniform(0.5, 1.0)) if ahead > self._near else None
