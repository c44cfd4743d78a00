"""Watcher `inotify`: the Linux kernel tells at once.

1. Watches directories, not files: a file that is replaced by a rename, or made anew, is seen under its name.
2. Watches the directories above them for being renamed or removed, and nothing else: that others work there is no news.
3. A directory that is not there, or goes away, is waited for in the nearest one above it.
4. Symbolic links are watched too, on the way and at its end, and so is what they lead to.
5. When the kernel has dropped events, every file may have changed.
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

_ITSELF: Final = _libc.DELETE_SELF | _libc.MOVE_SELF | _libc.ONLYDIR | _libc.MASK_ADD
_NAMING: Final = _libc.MOVED_FROM | _libc.MOVED_TO | _libc.CREATE | _libc.DELETE
_FILES: Final = _ITSELF | _NAMING | _libc.MODIFY | _libc.ATTRIB | _libc.CLOSE_WRITE
_GONE: Final = _libc.DELETE_SELF | _libc.MOVE_SELF | _libc.IGNORED


class InotifyWatcher(Watcher):
    """Hears of changes from the kernel."""

    rank: ClassVar[int] = 30

    def __init__(self, options: msgspec.Struct) -> None:
        super().__init__(options)
        self._fd = -1
        #: Of each directory, by file name there, the watched files that a change of it concerns.
        self._names: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        #: What each watch is of. Several paths may lead to one directory.
        self._directories: dict[int, set[str]] = defaultdict(set)
        self._watches: dict[str, int] = {}
        #: Directories that are watched for what happens in them, not only to them.
        self._covered: set[str] = set()

    @classmethod
    def unavailable(cls) -> str | None:
        """Say why there is no inotify here."""
        return "inotify is a part of Linux" if _libc.missing() else None

    def fileno(self) -> int | None:
        """Return the descriptor of inotify."""
        return self._open()

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = _libc.open_inotify()
        return self._fd

    def watch(self, paths: Iterable[str]) -> None:
        """Watch the directories of these files."""
        self._open()
        for path in paths:
            self._note(path)
        self._cover()

    def read(self) -> set[str]:
        """Return the files that the kernel has told something about."""
        if self._fd < 0:
            return set()
        changed: set[str] = set()
        news = False
        for wd, mask, name in _libc.events(self._fd):
            news = True
            if mask & _libc.Q_OVERFLOW:
                changed.update(*(files for names in self._names.values() for files in names.values()))
                continue
            for directory in list(self._directories.get(wd, ())):
                if mask & _GONE:
                    changed |= self._lose(directory)
                elif directory in self._names and name in self._names[directory]:
                    changed |= self._names[directory][name]
                    if mask & _NAMING:
                        # It may be a link on the way, and lead elsewhere.
                        self._lose(os.path.join(directory, name))
        if news:
            for path in changed:
                # It may be another symbolic link now.
                self._note(path)
            changed |= self._cover()
        return changed

    # ------------------------------------------------------------ directories

    def _note(self, path: str) -> None:
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

    def _cover(self) -> set[str]:
        """Watch every directory that is not watched yet; return the files in them."""
        found: set[str] = set()
        for directory in self._names.keys() - self._covered:
            place = directory
            # From the top of what is missing: what appears while we look is looked into in its turn.
            while not self._begin(place, _FILES):
                place = os.path.dirname(place)
                while not os.path.isdir(place):
                    place = os.path.dirname(place)
                if self._begin(place, _FILES) and not os.path.isdir(_next(place, directory)):
                    break
                place = directory
            if place == directory:
                self._covered.add(directory)
                found |= self._files_in(directory)
            self._guard(place)
        return found

    def _begin(self, directory: str, mask: int) -> bool:
        """Watch `directory`; return whether it is there."""
        try:
            wd = _libc.add_watch(self._fd, directory, mask)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        self._watches[directory] = wd
        self._directories[wd].add(directory)
        return True

    def _guard(self, directory: str) -> None:
        """Hear when a directory above `directory` goes away or is called otherwise."""
        while (above := os.path.dirname(directory)) != directory:
            if above not in self._watches:
                try:
                    self._begin(above, _ITSELF)
                except PermissionError:
                    # It may be entered and not read; what is below it is watched all the same.
                    return
            directory = above

    def _lose(self, gone: str) -> set[str]:
        """Forget the watches of a directory that went away and of all below it; return the files in them."""
        changed: set[str] = set()
        for directory in [each for each in self._watches if each == gone or each.startswith(gone + os.sep)]:
            wd = self._watches.pop(directory)
            self._covered.discard(directory)
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
        for each in (self._names, self._directories, self._watches, self._covered):
            each.clear()


def _next(above: str, below: str) -> str:
    """Return the directory on the way from `above` down to `below` that comes first."""
    return os.path.join(above, os.path.relpath(below, above).split(os.sep, 1)[0])
