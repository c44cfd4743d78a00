"""The prefork pool's part of `inspect stats`: its children, and the spread of jobs over them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from framework.api.pool import PoolContext
from framework_pools.prefork.slot import Slot


class PoolStats:
    """Builds the statistics; keeps the job counts of exited children."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}

    def note(self, slot: Slot) -> None:
        """Add the job count of the exited child in `slot` to its index."""
        index = slot.spec.process_index
        self._done[index] = self._done.get(index, 0) + slot.done

    def info(self, name: str, context: PoolContext, size: int, slots: Collection[Slot], backlog: int) -> dict[str, Any]:
        """Return the statistics; `name` is the pool's class, `backlog` the number of jobs not given to a child."""
        written = dict(self._done)
        for slot in slots:
            index = slot.spec.process_index
            written[index] = written.get(index, 0) + slot.done + len(slot.jobs)
        counts = [written[index] for index in sorted(written)]
        total = sum(counts)
        shares = [f"{count / total:.2%}" if total else "0.00%" for count in counts]
        longest = [slot.elapsed() for slot in slots if slot.jobs]
        return {
            "implementation": name,
            "max-concurrency": size,
            "processes": [slot.pid for slot in slots if slot.pid is not None],
            "stopped-processes": [slot.pid for slot in slots if slot.stopped],
            "max-tasks-per-child": context.max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": True,
            "timeouts": context.timeouts,
            "writes": {
                "total": total,
                "avg": f"{1 / len(counts):.2%}" if total else "0.00%",
                "all": ", ".join(shares),
                "raw": ", ".join(map(str, counts)),
                "strategy": "fair",
                "inqueues": {"total": len(slots), "active": sum(1 for slot in slots if slot.jobs)},
            },
            "waiting": backlog + sum(max(0, len(slot.jobs) - 1) for slot in slots),
            "longest-running": max(longest, default=0.0),
        }
