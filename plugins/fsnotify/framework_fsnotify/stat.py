"""Watcher `stat`: checks every file at an interval; works everywhere, on network file systems too."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, ClassVar, TypeAlias

import msgspec

from framework.api.fsnotify import Watcher

#: Times, size, inode and device of a file; None: the file does not exist.
State: TypeAlias = tuple[int, int, int, int, int] | None


class StatOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of the watcher `stat`."""

    interval: Annotated[float, msgspec.Meta(gt=0, description="Seconds between two checks.")] = 1.0


class StatWatcher(Watcher):
    """The watcher `stat`: compares the `stat` values of each file."""

    rank: ClassVar[int] = 10
    options_type: ClassVar[type[msgspec.Struct]] = StatOptions

    def __init__(self, options: msgspec.Struct) -> None:
        super().__init__(options)
        self._states: dict[str, State] = {}

    def watch(self, paths: Iterable[str]) -> None:
        """Record the state of these files."""
        for path in paths:
            if path not in self._states:
                self._states[path] = _state(path)

    def read(self) -> set[str]:
        """Return the files whose state has changed."""
        changed = set()
        for path, before in self._states.items():
            now = _state(path)
            if now != before:
                self._states[path] = now
                changed.add(path)
        return changed

    @property
    def interval(self) -> float:
        """Seconds between two checks."""
        return float(self.options.interval)

    def close(self) -> None:
        """Forget the files."""
        self._states.clear()


def _state(path: str) -> State:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
