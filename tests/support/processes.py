"""Starting processes that cannot outlive the tests, and ending them with all that they started.

1. `spawn` starts a command in a session of its own, its output in a file; the kernel kills it if the tests die.
2. `members` finds everything that belongs to it: its descendants and whatever else lives in its session.
3. `kill_all` ends exactly those, by pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
try:
    _prctl = ctypes.CDLL(None).prctl
except AttributeError:  # not Linux: the session's end has to do
    _prctl = None


def _die_with_parent() -> None:
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(
    argv: Sequence[str], *, log: Path, cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` in its own session; stdout and stderr are appended to `log`."""
    # The kernel watches the thread that forked, so only the main thread's children may be tied to it.
    in_main = threading.current_thread() is threading.main_thread()
    with log.open("ab") as out:
        return subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if in_main else None,
        )


def members(pid: int) -> list[psutil.Process]:
    """Return the process `pid` (if it lives), its descendants, and all others in the session that it leads."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        found[pid] = leader
        for child in leader.children(recursive=True):
            found[child.pid] = child
    for other in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if other not in found and os.getsid(other) == pid:
                found[other] = psutil.Process(other)
    return [process for process in found.values() if _alive(process)]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def alive(pid: int) -> bool:
    """Say whether `pid` is a process that has not ended (a zombie has)."""
    try:
        return _alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Kill `processes`; psutil checks that each pid still is the process we mean."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def tail(log: Path, count: int = 60) -> str:
    """Return the last `count` lines of `log`."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""
