"""Watcher `kqueue`: the kernel of macOS and the BSDs reports changes at once.

1. Opens every file, to see writes, and its directory, to see files that are created, renamed and removed.
2. Opens a path again when it leads to another file than before.
3. Watches the parent directories for renames and removal, and waits for a missing directory in its nearest existing
   parent.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import msgspec

from framework.api.fsnotify import Watcher

# Type checkers know these calls on their own systems only, and check the rest of this module there.
assert not TYPE_CHECKING or sys.platform != "linux"

#: Most events read at once.
_BATCH: Final = 256

#: Device and inode; None: the file does not exist.
Identity: TypeAlias = tuple[int, int] | None


class KqueueWatcher(Watcher):
    """The watcher `kqueue`: reads changes from the kernel."""

    rank: ClassVar[int] = 20

    def __init__(self, options: msgspec.Struct) -> None:
        super().__init__(options)
        self._queue: select.kqueue | None = None
        self._files: set[str] = set()
        #: By open path: its descriptor, its identity when it was opened, and the watched events.
        self._open: dict[str, tuple[int, Identity, int]] = {}
        self._paths: dict[int, str] = {}

    @classmethod
    def unavailable(cls) -> str | None:
        """Return why kqueue is not available, or None."""
        return None if hasattr(select, "kqueue") else "kqueue is a part of macOS and the BSDs"

    def fileno(self) -> int | None:
        """Return the queue's descriptor."""
        return self._ensure_queue().fileno()

    def _ensure_queue(self) -> select.kqueue:
        if self._queue is None:
            self._queue = select.kqueue()
        return self._queue

    def watch(self, paths: Iterable[str]) -> None:
        """Watch these files and their directories."""
        self._ensure_queue()
        self._files.update(paths)
        self._refresh()

    def read(self) -> set[str]:
        """Return the files for which the kernel has reported events."""
        if self._queue is None:
            return set()
        reported: set[str] = set()
        while events := self._queue.control(None, _BATCH, 0):
            reported.update(self._paths[event.ident] for event in events if event.ident in self._paths)
            if len(events) < _BATCH:
                break
        if not reported:
            return set()
        return (reported & self._files) | self._refresh()

    # ------------------------------------------------------------ open files and directories

    def _refresh(self) -> set[str]:
        """Open every existing file and directory; return the files that were replaced."""
        changed: set[str] = set()
        while True:
            # From the top down: a directory that appears meanwhile is opened in its turn.
            again = [self._reopen(path, flags) for path, flags in sorted(self._wanted_directories().items())]
            changed.update(path for path in self._files if self._reopen(path, _file_events()))
            if not any(again):
                return changed

    def _wanted_directories(self) -> dict[str, int]:
        """Return the events to watch, by directory."""
        wanted: dict[str, int] = {}
        for path in self._files:
            directory = os.path.dirname(path)
            while not os.path.isdir(directory):
                directory = os.path.dirname(directory)
            wanted[directory] = _file_events()
            while (above := os.path.dirname(directory)) != directory:
                if os.path.islink(directory):
                    # The target of a symbolic link may change.
                    wanted[above] = _file_events()
                wanted.setdefault(above, select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME)
                directory = above
        return wanted

    def _reopen(self, path: str, flags: int) -> bool:
        """Open `path` again if it is another file or needs more events; return whether anything changed."""
        fd, before, watched = self._open.get(path, (-1, None, 0))
        now = _identity(path)
        if now == before and (now is None or watched | flags == watched):
            return False
        if fd >= 0:
            # Closing the descriptor ends its watch.
            del self._open[path], self._paths[fd]
            os.close(fd)
        return self._open_path(path, flags | watched) if now is not None else True

    def _open_path(self, path: str, flags: int) -> bool:
        try:
            # On macOS: a descriptor that does not prevent the volume from being unmounted.
            fd = os.open(path, getattr(os, "O_EVTONLY", os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except PermissionError:
            # The directory cannot be read; the directories below it are watched nevertheless.
            return False
        event = select.kevent(fd, select.KQ_FILTER_VNODE, select.KQ_EV_ADD | select.KQ_EV_CLEAR, flags)
        self._ensure_queue().control([event], 0, 0)
        found = os.fstat(fd)
        self._open[path] = (fd, (found.st_dev, found.st_ino), flags)
        self._paths[fd] = path
        return True

    def close(self) -> None:
        """Close every descriptor."""
        for fd, _before, _asked in self._open.values():
            os.close(fd)
        if self._queue is not None:
            self._queue.close()
            self._queue = None
        for each in (self._open, self._paths, self._files):
            each.clear()


def _file_events() -> int:
    """Return the events to watch for a file, and for a directory with watched names."""
    return (
        select.KQ_NOTE_WRITE
        | select.KQ_NOTE_EXTEND
        | select.KQ_NOTE_ATTRIB
        | select.KQ_NOTE_DELETE
        | select.KQ_NOTE_RENAME
    )


def _identity(path: str) -> Identity:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
