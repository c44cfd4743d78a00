"""Where a child is: its Python stack, read without its help.

1. `listen`: the child has two signals answered by faulthandler, in C, so also while a library holds the interpreter's
   lock. The answer goes into the file of the shared page, behind the page.
2. `Stacks.ask`: the worker sends one of them and passes on what was written. Both ends share the position in the file:
   it says how much there is.

Linux only: elsewhere nobody answers, and the stack is empty.
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

# Real-time signals: the others mean something to somebody.
if sys.platform == "linux":
    _MAIN_THREAD: Final = signal.SIGRTMIN + 11
    _ALL_THREADS: Final = signal.SIGRTMIN + 12
else:
    _MAIN_THREAD: Final = 0
    _ALL_THREADS: Final = 0
#: Seconds between two looks at the answer.
_PAUSE: Final = 0.005
#: Bytes of an answer that are read.
_MOST: Final = 32 * 1024
_OWN: Final = os.path.dirname(__file__)


def listen(page_fd: int) -> None:
    """Have this process answer; `page_fd` must stay open."""
    if _MAIN_THREAD:
        faulthandler.register(_MAIN_THREAD, page_fd, all_threads=False)
        faulthandler.register(_ALL_THREADS, page_fd, all_threads=True)


def state_of(pid: int) -> str:
    """Return the letter that the kernel has for what process `pid` does; "" if it cannot be told."""
    with suppress(OSError, IndexError):
        # The name in parentheses may hold anything.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    return ""


def is_stopped(pid: int) -> bool:
    """Return whether a signal or a debugger has stopped process `pid`."""
    return state_of(pid) in ("T", "t")


class Stacks:
    """Asks children where they are."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def ask(self, slot: Slot, then: Callable[[str], object], patience: float, *, doomed: bool) -> None:
        """Call `then` with the stack of the child in `slot`, "" if it does not tell within `patience` seconds.

        `doomed`: the child is about to be killed, so all its threads are shown; looking at threads that go on running
        is not safe enough for a child that lives on.
        """
        if not _MAIN_THREAD or slot.closed or slot.pid is None or slot.asked or is_stopped(slot.pid):
            then("")
            return
        os.ftruncate(slot.page_fd, SIZE)
        os.lseek(slot.page_fd, SIZE, os.SEEK_SET)
        slot.asked = True
        with suppress(ProcessLookupError):
            os.kill(slot.pid, _ALL_THREADS if doomed else _MAIN_THREAD)
        self._loop.call_later(_PAUSE, self._read, slot, then, 0, int(patience / _PAUSE))

    def _read(self, slot: Slot, then: Callable[[str], object], before: int, tries: int) -> None:
        if slot.closed:
            then("")
            return
        size = os.lseek(slot.page_fd, 0, os.SEEK_CUR) - SIZE
        # It is written line by line: whole when it no longer grows.
        if tries and (size == 0 or size != before):
            self._loop.call_later(_PAUSE, self._read, slot, then, size, tries - 1)
            return
        slot.asked = False
        then(tidy(os.pread(slot.page_fd, min(size, _MOST), SIZE).decode(errors="replace")))


def tidy(text: str) -> str:
    """Return faulthandler's `text` without the pool's own frames, and without threads that have no others."""
    threads: list[list[str]] = []
    for line in text.splitlines():
        if not line.startswith("  "):
            threads.append([line])
        elif threads and _OWN not in line and "<frozen " not in line:
            threads[-1].append(line)
    return "\n".join("\n".join(lines) for lines in threads if len(lines) > 1)
