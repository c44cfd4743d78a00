"""Assignment of jobs to children.

A child gets jobs up to an expected work of a few milliseconds; no job waits behind a long or unknown task.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

from framework.api.pool import Job
from framework_pools._costs import BUDGET, DEPTH_MAX, UNKNOWN, Costs
from framework_pools.prefork.slot import Slot

#: Jobs for one child, each with its expected cost in seconds.
Batch: TypeAlias = list[tuple[Job, float]]


def free_capacity(slots: Mapping[int, Slot], costs: Costs) -> int:
    """Return how many more jobs of the recent mix the children can take."""
    total = 0
    for slot in slots.values():
        if not slot.accepts:
            continue
        if slot.jobs:
            free = min(costs.jobs_within(BUDGET - slot.load), DEPTH_MAX - len(slot.jobs)) if slot.load < BUDGET else 0
        else:
            free = max(1, costs.jobs_within(BUDGET))
        total += free if slot.left is None else min(free, slot.left)
    return total


def spread(backlog: deque[Job], slots: Mapping[int, Slot], costs: Costs) -> list[tuple[Slot, Batch]]:
    """Take from `backlog` the jobs that the children can take, least loaded child first; return them by child."""
    heap: list[tuple[float, int, Slot, Batch]] = [
        (slot.load, number, slot, [])
        for number, slot in slots.items()
        if slot.accepts and slot.load < BUDGET and len(slot.jobs) < DEPTH_MAX
    ]
    if not heap:
        return []
    heapq.heapify(heap)
    candidates = list(heap)
    cost_of = costs.by_name.get
    replace = heapq.heapreplace
    while backlog and heap:
        load, number, slot, batch = heap[0]
        job = backlog[0]
        cost = cost_of(job[2], UNKNOWN)
        if load and load + cost > BUDGET:
            break  # it does not fit into the least loaded child, so it fits into none
        batch.append((job, cost))
        backlog.popleft()
        if len(batch) == slot.left or len(slot.jobs) + len(batch) >= DEPTH_MAX:
            heapq.heappop(heap)
        else:
            replace(heap, (load + cost, number, slot, batch))
    return [(slot, batch) for _load, _number, slot, batch in candidates if batch]
