"""Lists the descriptors, threads and child processes of this process, to find leaks by comparing two lists."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Survey(NamedTuple):
    """The resources of this process at one moment."""

    #: Descriptor: its target, or "?" where the system does not provide it.
    descriptors: Mapping[int, str]
    threads: frozenset[threading.Thread]
    #: Pids of child processes, zombies included.
    children: frozenset[int]

    def left_since(self, before: Survey) -> list[str]:
        """Return a description of each kind of resource that has increased since `before`; empty: none.

        Compares numbers, because one thread or child may have replaced another.
        """
        found = []
        if (more := len(self.descriptors) - len(before.descriptors)) > 0:
            others = self.descriptors.items() - before.descriptors.items()
            opened = ", ".join(f"{fd}: {target}" for fd, target in sorted(others))
            found.append(f"{more} open descriptors (of {opened})")
        if (more := len(self.threads) - len(before.threads)) > 0:
            names = sorted(thread.name for thread in self.threads - before.threads)
            found.append(f"{more} threads (of {names})")
        if (more := len(self.children) - len(before.children)) > 0:
            found.append(f"{more} child processes (of {sorted(self.children - before.children)})")
        return found


def survey() -> Survey:
    """Return the current resources of this process."""
    return Survey(_descriptors(), frozenset(threading.enumerate()), _children())


def is_alive(pid: int) -> bool:
    """Return whether a process `pid` exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_thread(ident: int) -> bool:
    """Return whether `ident` is the native or the Python id of a thread of this process."""
    return any(ident in (thread.native_id, thread.ident) for thread in threading.enumerate())


def _descriptors() -> dict[int, str]:
    found = {}
    for fd in map(int, os.listdir("/dev/fd")):
        try:
            os.fstat(fd)
        except OSError:
            continue  # the descriptor that listed the directory
        try:
            found[fd] = os.readlink(f"/dev/fd/{fd}")
        except OSError:
            found[fd] = "?"  # not Linux
    return found


def _children() -> frozenset[int]:
    tasks = Path("/proc/self/task")
    try:
        return frozenset(int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split())
    except OSError:
        return _children_by_ps()  # not Linux, or a thread ended meanwhile


def _children_by_ps() -> frozenset[int]:
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True) as ps:
        assert ps.stdout is not None
        pairs = [line.split() for line in ps.stdout]
    return frozenset(int(pid) for pid, parent in pairs if int(parent) == os.getpid() and int(pid) != ps.pid)
