"""Watcher `kqueue`: the kernel of macOS and the BSDs tells at once.

1. Watches every file by a descriptor of it, and its directory by another: the file's tells of writing, the directory's
   of names that come and go.
2. A name that belongs to another file than before is opened anew.
3. The directories above are watched for being renamed or removed. One that is not there is waited for in the nearest
   one above it.
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

#: Asked for at a time.
_BATCH: Final = 256

#: Device and inode; None: there is no such file.
Identity: TypeAlias = tuple[int, int] | None


class KqueueWatcher(Watcher):
    """Hears of changes from the kernel."""

    rank: ClassVar[int] = 20

    def __init__(self, options: msgspec.Struct) -> None:
        super().__init__(options)
        self._queue: select.kqueue | None = None
        self._files: set[str] = set()
        #: Every path that is open, with its descriptor, what it was when it was opened, and what is asked of it.
        self._open: dict[str, tuple[int, Identity, int]] = {}
        self._paths: dict[int, str] = {}

    @classmethod
    def unavailable(cls) -> str | None:
        """Say why there is no kqueue here."""
        return None if hasattr(select, "kqueue") else "kqueue is a part of macOS and the BSDs"

    def fileno(self) -> int | None:
        """Return the queue's descriptor."""
        return self._made().fileno()

    def _made(self) -> select.kqueue:
        if self._queue is None:
            self._queue = select.kqueue()
        return self._queue

    def watch(self, paths: Iterable[str]) -> None:
        """Watch these files and their directories."""
        self._made()
        self._files.update(paths)
        self._refresh()

    def read(self) -> set[str]:
        """Return the files that the kernel has told something about."""
        if self._queue is None:
            return set()
        told: set[str] = set()
        while events := self._queue.control(None, _BATCH, 0):
            told.update(self._paths[event.ident] for event in events if event.ident in self._paths)
            if len(events) < _BATCH:
                break
        if not told:
            return set()
        return (told & self._files) | self._refresh()

    # ------------------------------------------------------------ what is open

    def _refresh(self) -> set[str]:
        """Have every file and directory open that is there; return the files that are others than before."""
        changed: set[str] = set()
        while True:
            # Downwards: what appears while we look is looked into in its turn.
            again = [self._renew(path, what) for path, what in sorted(self._wanted_directories().items())]
            changed.update(path for path in self._files if self._renew(path, _contents()))
            if not any(again):
                return changed

    def _wanted_directories(self) -> dict[str, int]:
        """Return what to ask of which directories."""
        wanted: dict[str, int] = {}
        for path in self._files:
            directory = os.path.dirname(path)
            while not os.path.isdir(directory):
                directory = os.path.dirname(directory)
            wanted[directory] = _contents()
            while (above := os.path.dirname(directory)) != directory:
                if os.path.islink(directory):
                    # It may come to lead elsewhere.
                    wanted[above] = _contents()
                wanted.setdefault(above, select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME)
                directory = above
        return wanted

    def _renew(self, path: str, what: int) -> bool:
        """Open `path` if it is not what is open under that name, and ask `what`; return whether anything was to do."""
        fd, before, asked = self._open.get(path, (-1, None, 0))
        now = _identity(path)
        if now == before and (now is None or asked | what == asked):
            return False
        if fd >= 0:
            # Closing it ends its watch.
            del self._open[path], self._paths[fd]
            os.close(fd)
        return self._begin(path, what | asked) if now is not None else True

    def _begin(self, path: str, what: int) -> bool:
        try:
            # For macOS: a descriptor that does not keep the volume from being unmounted.
            fd = os.open(path, getattr(os, "O_EVTONLY", os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except PermissionError:
            # A directory that may be entered and not read; what is below it is watched all the same.
            return False
        event = select.kevent(fd, select.KQ_FILTER_VNODE, select.KQ_EV_ADD | select.KQ_EV_CLEAR, what)
        self._made().control([event], 0, 0)
        found = os.fstat(fd)
        self._open[path] = (fd, (found.st_dev, found.st_ino), what)
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


def _contents() -> int:
    """Return what to ask of a file, and of a directory whose names matter."""
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
