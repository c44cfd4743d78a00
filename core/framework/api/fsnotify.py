"""Contract of a file watcher: which of some files may have changed.

Promises
1. From the moment `watch` returns no change of a file is missed: written to, replaced by renaming another over it (as
   many editors save), removed, made again, or made for the first time, also in a directory that is removed, renamed or
   made meanwhile.
2. `read` returns the files of which something may have changed since it was called last, under the names that `watch`
   was given. It never blocks. It may name a file that has not changed, or one that is still being written, which is
   then named again; whoever asks looks at the contents.
3. A watcher has no thread. It is asked when its descriptor (`fileno`) is readable, or, if it has none, every `interval`
   seconds. Two calls never come at a time. The descriptor stays the same until `close`, and is not readable for long
   when there is nothing to tell.
4. `close` lets go of everything; it is harmless when repeated, or before `watch`. Once closed, a watcher tells nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from framework.api.plugin import Plugin


class Watcher(Plugin, ABC):
    """A file watcher's driver. Making one opens nothing."""

    #: Which one is taken when the user names none: the greatest of those that are available.
    rank: ClassVar[int] = 0

    def __init__(self, options: msgspec.Struct) -> None:
        self.options: Any = options

    @classmethod
    def unavailable(cls) -> str | None:
        """Return in words why it cannot work on this system; None: it can."""
        return None

    @abstractmethod
    def watch(self, paths: Iterable[str]) -> None:
        """Watch these files (absolute paths) from now on, besides those that are watched already.

        They need not exist. Raises `OSError` when the system refuses.
        """

    @abstractmethod
    def read(self) -> set[str]:
        """Return the files that may have changed."""

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when `read` has something to tell; None: there is none."""
        return None

    @property
    def interval(self) -> float:
        """Seconds between two calls of `read` where there is no descriptor."""
        return 1.0

    def close(self) -> None:
        """Watch no longer."""
