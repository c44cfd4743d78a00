"""Deliveries of a transport's consumer, for tests that have one without a worker."""

from __future__ import annotations

import select
from collections.abc import Iterable

from framework.api.transport import Consumer, Delivery
from framework.message import read_head
from support.wait import wait_for


def gather(consumer: Consumer, count: int) -> list[Delivery]:
    """Fetch until there are at least `count` deliveries, sleeping on the descriptor meanwhile."""
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(consumer.fetch(count))
        if len(found) < count:
            select.select([consumer.fileno()], [], [], 0.05)
        return len(found) >= count

    wait_for(enough, 20, lambda: f"{count} deliveries, there are {ids(found)}")
    return found


def ids(deliveries: Iterable[Delivery]) -> list[str | None]:
    """Return the tasks' ids."""
    return [read_head(delivery.payload).headers.id for delivery in deliveries]
