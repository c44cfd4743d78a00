"""Watcher `inotify`: the Linux kernel reports changes at once.

1. Watches directories, not files, and so also sees files that are created or replaced by a rename.
2. Watches the parent directories only for renames and removal, not for changes of their other files.
3. Waits for a missing or removed directory in its nearest existing parent.
4. Watches symbolic links, in the path and at its end, and their targets.
5. Reports every file as changed when the kernel has dropped events.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar, Final

import msgspec

from framework.api.fsnotify import Watcher
from framework_fsnotify import _libc

_DIRECTORY_EVENTS: Final = _libc.DELETE_SELF | _libc.MOVE_SELF | _libc.ONLYDIR | _libc.MASK_ADD
_NAME_EVENTS: Final = _libc.MOVED_FROM | _libc.MOVED_TO | _libc.CREATE | _libc.DELETE
_FILE_EVENTS: Final = _DIRECTORY_EVENTS | _NAME_EVENTS | _libc.MODIFY | _libc.ATTRIB | _libc.CLOSE_WRITE
_GONE: Final = _libc.DELETE_SELF | _libc.MOVE_SELF | _libc.IGNORED


class InotifyWatcher(Watcher):
    """The watcher `inotify`: reads changes from the kernel."""

    rank: ClassVar[int] = 30

    def __init__(self, options: msgspec.Struct) -> None:
        super().__init__(options)
        self._fd = -1
        #: By directory and by name in it: the watched files that change with that name.
        self._names: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        #: Directories by watch number; several paths may lead to one directory.
        self._directories: dict[int, set[str]] = defaultdict(set)
        self._watches: dict[str, int] = {}
        #: Directories that are watched for changes of their files, too.
        self._watched_inside: set[str] = set()

    @classmethod
    def unavailable(cls) -> str | None:
        """Return why inotify is not available, or None."""
        return "inotify is a part of Linux" if _libc.missing() else None

    def fileno(self) -> int | None:
        """Return the inotify descriptor."""
        return self._open()

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = _libc.open_inotify()
        return self._fd

    def watch(self, paths: Iterable[str]) -> None:
        """Watch the directories of these files."""
        self._open()
        for path in paths:
            self._register(path)
        self._watch_directories()

    def read(self) -> set[str]:
        """Return the files for which the kernel has reported events."""
        if self._fd < 0:
            return set()
        changed: set[str] = set()
        any_events = False
        for wd, mask, name in _libc.events(self._fd):
            any_events = True
            if mask & _libc.Q_OVERFLOW:
                changed.update(*(files for names in self._names.values() for files in names.values()))
                continue
            for directory in list(self._directories.get(wd, ())):
                if mask & _GONE:
                    changed |= self._remove_watches(directory)
                elif directory in self._names and name in self._names[directory]:
                    changed |= self._names[directory][name]
                    if mask & _NAME_EVENTS:
                        # The name may be a symbolic link in a path, with a new target.
                        self._remove_watches(os.path.join(directory, name))
        if any_events:
            for path in changed:
                # The path may be a symbolic link with a new target.
                self._register(path)
            changed |= self._watch_directories()
        return changed

    # ------------------------------------------------------------ directories

    def _register(self, path: str) -> None:
        for place in {path, os.path.realpath(path)}:
            directory, name = os.path.split(place)
            self._names[directory][name].add(path)
        place = os.path.dirname(path)
        while (above := os.path.dirname(place)) != place:
            if os.path.islink(place):
                self._names[above][os.path.basename(place)].add(path)
            place = above

    def _files_in(self, directory: str) -> set[str]:
        return set().union(*self._names[directory].values()) if directory in self._names else set()

    def _watch_directories(self) -> set[str]:
        """Watch every directory that is not watched yet; return the watched files in them."""
        found: set[str] = set()
        for directory in self._names.keys() - self._watched_inside:
            place = directory
            # From the topmost missing directory down: one that appears meanwhile is tried in its turn.
            while not self._add_watch(place, _FILE_EVENTS):
                place = os.path.dirname(place)
                while not os.path.isdir(place):
                    place = os.path.dirname(place)
                if self._add_watch(place, _FILE_EVENTS) and not os.path.isdir(_next(place, directory)):
                    break
                place = directory
            if place == directory:
                self._watched_inside.add(directory)
                found |= self._files_in(directory)
            self._watch_parents(place)
        return found

    def _add_watch(self, directory: str, mask: int) -> bool:
        """Watch `directory`; return whether it exists."""
        try:
            wd = _libc.add_watch(self._fd, directory, mask)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        self._watches[directory] = wd
        self._directories[wd].add(directory)
        return True

    def _watch_parents(self, directory: str) -> None:
        """Watch the parents of `directory` for renames and removal."""
        while (above := os.path.dirname(directory)) != directory:
            if above not in self._watches:
                try:
                    self._add_watch(above, _DIRECTORY_EVENTS)
                except PermissionError:
                    # The directory cannot be read; the directories below it are watched nevertheless.
                    return
            directory = above

    def _remove_watches(self, gone: str) -> set[str]:
        """Remove the watches of a removed directory and of all below it; return the watched files in them."""
        changed: set[str] = set()
        for directory in [each for each in self._watches if each == gone or each.startswith(gone + os.sep)]:
            wd = self._watches.pop(directory)
            self._watched_inside.discard(directory)
            paths = self._directories.get(wd, set())
            paths.discard(directory)
            if not paths:
                self._directories.pop(wd, None)
                _libc.remove_watch(self._fd, wd)
            changed |= self._files_in(directory)
        return changed

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for each in (self._names, self._directories, self._watches, self._watched_inside):
            each.clear()


def _next(above: str, below: str) -> str:
    """Return the first directory below `above` on the path to `below`."""
    return os.path.join(above, os.path.relpath(below, above).split(os.sep, 1)[0])
