"""What processes use: CPU seconds and memory of a tree.

1. `cpu` adds user and system time of the given processes and of the children that they have reaped.
2. `pss` adds proportional set sizes: pages that several processes share count once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

TICKS = os.sysconf("SC_CLK_TCK")


def cpu(processes: Iterable[psutil.Process]) -> float:
    """Return CPU seconds."""
    total = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def pss(processes: Iterable[psutil.Process]) -> float:
    """Return megabytes (2**20)."""
    total = 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024
