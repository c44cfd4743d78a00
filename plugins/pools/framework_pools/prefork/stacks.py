"""Python stacks of children, read without their help.

1. `register`: the child has faulthandler answer two signals, in C, so also while a library holds the interpreter's
   lock. It writes the stack to the file of the shared memory, behind the memory itself.
2. `Stacks.request`: the worker sends one of the signals and reads the stack. Both processes share the position in the
   file, which gives the length of the stack.

Linux only: elsewhere the stack is empty.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from framework.api.loop import Loop
from framework_pools.prefork.shared_memory import SIZE

if TYPE_CHECKING:
    from framework_pools.prefork.slot import Slot

# Real-time signals: the other signals may be in use by the application.
if sys.platform == "linux":
    _MAIN_THREAD: Final = signal.SIGRTMIN + 11
    _ALL_THREADS: Final = signal.SIGRTMIN + 12
else:
    _MAIN_THREAD: Final = 0
    _ALL_THREADS: Final = 0
#: Seconds to wait for a stack, unless its process must end at once.
STACK_TIMEOUT: Final = 1.0
#: Seconds between two checks of the file.
_INTERVAL: Final = 0.005
#: Most bytes of a stack that are read.
_SIZE_MAX: Final = 32 * 1024
_POOL_DIRECTORY: Final = os.path.dirname(__file__)


def register(page_fd: int) -> None:
    """Have this process write its stack to `page_fd`, which must stay open, on request."""
    if _MAIN_THREAD:
        faulthandler.register(_MAIN_THREAD, page_fd, all_threads=False)
        faulthandler.register(_ALL_THREADS, page_fd, all_threads=True)


def state_of(pid: int) -> str:
    """Return the kernel's state letter of process `pid`; "" if it is not available."""
    with suppress(OSError, IndexError):
        # The process name, in parentheses, may contain spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    return ""


def is_stopped(pid: int) -> bool:
    """Return whether a signal or a debugger has stopped process `pid`."""
    return state_of(pid) in ("T", "t")


class Stacks:
    """Requests the stacks of children."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def request(self, slot: Slot, callback: Callable[[str], object], timeout: float, *, all_threads: bool) -> None:
        """Call `callback` with the stack of the child in `slot`, "" if it does not answer within `timeout` seconds.

        `all_threads`: only for a child that is about to be killed, because reading the stacks of running threads may
        crash it. Otherwise the stack of the main thread is read.
        """
        if not _MAIN_THREAD or slot.closed or slot.pid is None or slot.stack_requested or is_stopped(slot.pid):
            callback("")
            return
        os.ftruncate(slot.page_fd, SIZE)
        os.lseek(slot.page_fd, SIZE, os.SEEK_SET)
        slot.stack_requested = True
        with suppress(ProcessLookupError):
            os.kill(slot.pid, _ALL_THREADS if all_threads else _MAIN_THREAD)
        self._loop.call_later(_INTERVAL, self._read, slot, callback, 0, int(timeout / _INTERVAL))

    def _read(self, slot: Slot, callback: Callable[[str], object], before: int, tries: int) -> None:
        if slot.closed:
            callback("")
            return
        size = os.lseek(slot.page_fd, 0, os.SEEK_CUR) - SIZE
        # It is written line by line: it is complete when it no longer grows.
        if tries and (size == 0 or size != before):
            self._loop.call_later(_INTERVAL, self._read, slot, callback, size, tries - 1)
            return
        slot.stack_requested = False
        callback(without_pool_frames(os.pread(slot.page_fd, min(size, _SIZE_MAX), SIZE).decode(errors="replace")))


def without_pool_frames(text: str) -> str:
    """Return faulthandler's `text` without the pool's own frames, and without threads that have only those."""
    threads: list[list[str]] = []
    for line in text.splitlines():
        if not line.startswith("  "):
            threads.append([line])
        elif threads and _POOL_DIRECTORY not in line and "<frozen " not in line:
            threads[-1].append(line)
    return "\n".join("\n".join(lines) for lines in threads if len(lines) > 1)
