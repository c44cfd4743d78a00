"""Measures the machine: CPUs, load and memory, within the limits of a container."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

from framework.api.autoscaler import Machine
from framework.worker.autoscaler import cgroup

_MIB: Final = 1024 * 1024
_MEMINFO: Final = Path("/proc/meminfo")


def measure(meminfo: Path = _MEMINFO, groups: Path = cgroup.ROOT, membership: Path = cgroup.MEMBERSHIP) -> Machine:
    """Return the current load and memory."""
    free, total = _memory(meminfo)
    for limit, available in cgroup.memory(groups, membership):
        total = min(total, limit)
        free = min(free, available)
    # The load is that of the whole machine: a quota does not lower the number of its CPUs.
    return Machine(load=os.getloadavg()[0] / _affinity(), memory_free=free // _MIB, memory_total=total // _MIB)


def cpus(groups: Path = cgroup.ROOT, membership: Path = cgroup.MEMBERSHIP) -> int:
    """Return the number of CPUs that this process may use: a quota is rounded up."""
    quota = cgroup.cpu_quota(groups, membership)
    return _affinity() if quota is None else min(_affinity(), math.ceil(quota))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory(meminfo: Path) -> tuple[int, int]:
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024, int(fields["MemTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Not Linux: only the total memory is known, and counts as free.
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total
