"""Times on the wire: `eta` and `expires` are ISO 8601; without a zone they are UTC."""

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
        raise MessageUndecodable(f"the header {name!r} is no time: {value!r}") from error


class EtaPolicy:
    """Says of a time whether it is so far ahead that a message is parked in the broker, and until when."""

    def __init__(self, worker: WorkerSettings) -> None:
        self._near = worker.eta_park_after
        # A revoke that cannot be looked up where the task is parked (by stamps; on brokers that find nothing there; in
        # a worker that is not there just then) must meet it while it is remembered: a task comes by in half that time,
        # and not all at once.
        self._longest = max(worker.eta_park_after, worker.revoke_expires / 2, 1.0)

    def until(self, eta: str) -> float | None:
        """Return until when to park what is due at `eta` (s since the epoch); None: it is near, or over.

        Raises `MessageUndecodable`.
        """
        ahead = timestamp(eta, "eta") - (now := time.time())
        return now + min(ahead, self._longest * random.uniform(0.5, 1.0)) if ahead > self._near else None
