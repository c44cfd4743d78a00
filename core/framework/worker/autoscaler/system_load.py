"""Measures the machine for autoscalers: CPU load and memory, within the limits of a container."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from framework.api.autoscaler import Machine

_MIB: Final = 1024 * 1024
_MEMINFO: Final = Path("/proc/meminfo")
#: The control group of this process, as a container mounts it.
_CGROUP: Final = Path("/sys/fs/cgroup")


def measure(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> Machine:
    """Return the current load and memory."""
    free, total = _memory(meminfo)
    with contextlib.suppress(OSError, ValueError):
        # "max", for no limit, raises ValueError.
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text()) - _reclaimable(cgroup)
        total = min(total, limit)
        free = min(free, max(0, limit - used))
    return Machine(load=os.getloadavg()[0] / cpus(), memory_free=free // _MIB, memory_total=total // _MIB)


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory(meminfo: Path) -> tuple[int, int]:
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024, int(fields["MemTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Not Linux: only the total memory is known, and counts as free.
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total


def _reclaimable(cgroup: Path) -> int:
    """Return the bytes of page cache in the group's usage that the kernel can reclaim."""
    for line in (cgroup / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
