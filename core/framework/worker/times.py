"""Times on the wire: `eta` and `expires` are ISO 8601; without a zone they are UTC."""

from __future__ import annotations

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


def longest_park(worker: WorkerSettings) -> float:
    """Return the seconds for which a message is parked at most, less a random part.

    A revoke that cannot be looked up where the task is parked (by stamps; on brokers that find nothing there; in a
    worker that is not there just then) must meet it while it is remembered: a task comes by in half that time, and not
    all at once.
    """
    return max(worker.eta_park_after, worker.revoke_expires / 2, 1.0)
