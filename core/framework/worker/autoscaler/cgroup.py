"""The limits of this process's control groups, such as a container sets them: CPU quota and memory.

1. Both versions of the control groups, and nested groups: the tightest limit counts.
2. A missing file is no limit. The directories are arguments, so that tests can give trees of files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")
#: Files of a memory group, for version 2 and 1: its limit, its usage, and the reclaimable page cache in `memory.stat`.
_MEMORY: Final = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cpu_quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """Return how many CPUs' time the groups allow; None: no quota."""
    quotas = [quota for group in _groups("cpu", root, membership) for quota in _cpu_quotas(group)]
    return min(quotas, default=None)


def memory(root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[tuple[int, int]]:
    """Yield the limit and the available memory of each group, in bytes."""
    for group in _groups("memory", root, membership):
        for limit, usage, cache in _MEMORY:
            try:
                total = int((group / limit).read_text())
            except (OSError, ValueError):  # "max", for no limit
                continue
            used = 0
            with contextlib.suppress(OSError, ValueError):
                stat = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
                used = int((group / usage).read_text()) - int(stat.get(cache, 0))
            yield total, max(0, total - used)


def _cpu_quotas(group: Path) -> Iterator[float]:
    """Yield the quota of `group`, from the files of either version."""
    texts = []
    with contextlib.suppress(OSError):
        texts.append((group / "cpu.max").read_text())
    with contextlib.suppress(OSError):
        texts.append(" ".join((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")))
    for text in texts:
        with contextlib.suppress(ValueError):  # "max", for no quota
            quota, period = map(int, text.split())
            if quota > 0 and period > 0:  # version 1 writes -1 for no quota
                yield quota / period


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """Yield the directories of this process's groups that have `controller`, innermost first.

    A container may see the path of its group on the host but mount the group itself as the root: each hierarchy's root
    is yielded, too.
    """
    found = {root: "", root / controller: ""}
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, names, path = line.split(":", 2)
            if not names:
                found |= {root: path, root / "unified": path}
            elif controller in names.split(","):
                found |= {root / controller: path, root / names: path}
    for hierarchy, path in found.items():
        # ".." leads out of the container's view.
        group = hierarchy / ("" if ".." in path else path.lstrip("/"))
        yield from [group, *group.parents][: len(group.parts) - len(hierarchy.parts) + 1]
