"""Which child gets which job.

As many go into each as its expected work allows: a few milliseconds, and nothing behind a task that is long or unknown.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

from framework.api.pool import Job
from framework_pools._costs import BUDGET, DEPTH_MAX, UNKNOWN, Costs
from framework_pools.prefork.slot import Slot

#: Jobs for one child, each with what it is expected to cost.
Batch: TypeAlias = list[tuple[Job, float]]


def room(slots: Mapping[int, Slot], costs: Costs) -> int:
    """Return how many more jobs of the recent mix fit into the children."""
    total = 0
    for slot in slots.values():
        if not slot.accepts:
            continue
        if slot.jobs:
            free = min(costs.room(BUDGET - slot.load), DEPTH_MAX - len(slot.jobs)) if slot.load < BUDGET else 0
        else:
            free = max(1, costs.room(BUDGET))
        total += free if slot.left is None else min(free, slot.left)
    return total


def spread(backlog: deque[Job], slots: Mapping[int, Slot], costs: Costs) -> list[tuple[Slot, Batch]]:
    """Take from `backlog` what fits into the children; return it by child. The least loaded one gets the next job."""
    heap: list[tuple[float, int, Slot, Batch]] = [
        (slot.load, number, slot, [])
        for number, slot in slots.items()
        if slot.accepts and slot.load < BUDGET and len(slot.jobs) < DEPTH_MAX
    ]
    if not heap:
        return []
    heapq.heapify(heap)
    places = list(heap)
    cost_of = costs.by_name.get
    replace = heapq.heapreplace
    while backlog and heap:
        load, number, slot, batch = heap[0]
        job = backlog[0]
        cost = cost_of(job[2], UNKNOWN)
        if load and load + cost > BUDGET:
            break  # the least loaded child has no room for it: none has
        batch.append((job, cost))
        backlog.popleft()
        if len(batch) == slot.left or len(slot.jobs) + len(batch) >= DEPTH_MAX:
            heapq.heappop(heap)
        else:
            replace(heap, (load + cost, number, slot, batch))
    return [(slot, batch) for _load, _number, slot, batch in places if batch]
