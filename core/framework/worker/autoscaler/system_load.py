"""What the machine has left, for autoscalers: load and memory, of the container where there is one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from framework.api.autoscaler import Machine

_MIB: Final = 1024 * 1024
_MEMINFO: Final = Path("/proc/meminfo")
#: The control group of a container, as it sees itself.
_CGROUP: Final = Path("/sys/fs/cgroup")


def look(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> Machine:
    """Return what there is now."""
    free, total = _memory(meminfo)
    with contextlib.suppress(OSError, ValueError):
        # "max" is no number, and stands for no limit.
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
        # Not Linux: what is free is not told, what there is is.
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total


def _reclaimable(cgroup: Path) -> int:
    """Return the bytes of the page cache that the group's usage counts and gives back when they are needed."""
    for line in (cgroup / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
