"""The memory that a child shares with the worker: the child's state and its outcomes.

1. `words`: 64-bit integers, each written by one side only. The worker reads from them, without a system call, the
   running job and its start.
2. The outbox: a ring into which the child puts every outcome at once. The worker can empty it at any time, also while
   the child runs a long task, is stopped or dead: no outcome is lost with its process.
3. An outcome that does not fit goes through the socket instead; see `framing`.
"""

from __future__ import annotations

import marshal
import mmap
import os
import tempfile
from typing import Any, Final

#: Indexes of `words`: number of the running or last job, and its start on the monotonic clock in ns.
SEQ: Final = 0
STARTED: Final = 1
#: Written by the worker: number of the job for which it sends SIGUSR1.
SOFT: Final = 2
#: One of the states below.
STATE: Final = 3
#: Bytes put into the outbox, and taken from it, since the start.
_HEAD: Final = 4
_TAIL: Final = 5
#: KiB in use when the child exceeded its memory limit.
MEMORY: Final = 6
#: When the child had loaded the application (monotonic ns); 0: not yet.
LOADED: Final = 7
#: Written by the worker: the signal that it sends to end the child.
ENDING: Final = 8
#: The same, written by the child once it has run Python code after that.
HEARD: Final = 9

STARTING: Final = 0
READY: Final = 1
#: The child claims no more jobs and is about to exit.
LEAVING: Final = 2
LEAVING_MEMORY: Final = 3

_RING: Final = 64 * 1024
_RING_AT: Final = 4096
#: Bytes of the shared memory; `stacks` uses the file behind it.
SIZE: Final = _RING_AT + _RING
#: In place of a length: the next record is at the beginning of the ring.
_WRAP: Final = 0xFFFF_FFFF
#: Marshal version; 2 is fast because it does not search for shared objects, which these tuples do not have.
VERSION: Final = 2


def create() -> int:
    """Create shared memory, all zero; return its descriptor."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("framework-child", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, SIZE)
    return fd


class ChildMemory:
    """A mapping of the shared memory in one process."""

    __slots__ = ("_lengths", "_memory", "_ring", "words")

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SIZE)
        view = memoryview(self._memory)
        #: Indexed by the constants of this module.
        self.words = view[:_RING_AT].cast("Q")
        self._ring = view[_RING_AT:]
        self._lengths = self._ring.cast("I")

    def put(self, record: tuple[Any, ...]) -> bytes | None:
        """Put `record` into the outbox (child only); return it encoded if the outbox is full."""
        data = marshal.dumps(record, VERSION)
        size = len(data)
        needed = (size + 11) & ~7  # the length, the data, and padding to eight bytes
        words = self.words
        head = words[_HEAD]
        at = head % _RING
        gap = _RING - at
        if needed > gap:
            if needed + gap > _RING - (head - words[_TAIL]):
                return data
            self._lengths[at >> 2] = _WRAP
            head += gap
            at = 0
        elif needed > _RING - (head - words[_TAIL]):
            return data
        self._ring[at + 4 : at + 4 + size] = data
        self._lengths[at >> 2] = size
        # Last, so that the worker sees only complete records.
        words[_HEAD] = head + needed
        return None

    def take(self) -> list[tuple[Any, ...]]:
        """Remove and return the records of the outbox (worker only)."""
        words = self.words
        head = words[_HEAD]
        tail = words[_TAIL]
        records: list[tuple[Any, ...]] = []
        ring, lengths, loads = self._ring, self._lengths, marshal.loads
        while tail < head:
            at = tail % _RING
            size = lengths[at >> 2]
            if size == _WRAP:
                tail += _RING - at
                continue
            records.append(loads(ring[at + 4 : at + 4 + size]))
            tail += (size + 11) & ~7
        words[_TAIL] = tail
        return records

    def running(self) -> tuple[int, int]:
        """Return the number of the running or last job, and its start (monotonic ns)."""
        words = self.words
        while True:
            seq = words[SEQ]
            started = words[STARTED]
            if words[SEQ] == seq:
                return seq, started

    def close(self) -> None:
        """Unmap the memory."""
        self._lengths.release()
        self._ring.release()
        self.words.release()
        self._memory.close()
