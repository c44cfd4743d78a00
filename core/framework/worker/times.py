"""Times on the wire: `eta` and `expires` are ISO 8601; without a zone they are UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from framework.exceptions import MessageUndecodable


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
