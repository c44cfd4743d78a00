"""Contract of a file watcher: reports which of the watched files may have changed.

Promises
1. Once `watch` has returned, no change of a file is missed: a write, a replacement by renaming another file over it (as
   many editors save), a removal, a creation, also in a directory that is removed, renamed or created meanwhile.
2. `read` returns the files that may have changed since its last call, under the paths passed to `watch`. It never
   blocks. It may return a file that has not changed, or one that is still being written and is then returned again; the
   caller compares the contents.
3. A watcher has no thread. Core calls `read` when the descriptor (`fileno`) is readable, or, without a descriptor,
   every `interval` seconds. Calls never overlap. The descriptor stays the same until `close`, and does not stay
   readable when no file has changed.
4. `close` releases all resources; it is harmless when repeated, or before `watch`. A closed watcher reports nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from framework.api.plugin import Plugin


class Watcher(Plugin, ABC):
    """Base class of file watchers. Creating a watcher opens nothing."""

    #: Among the available watchers core takes the one with the greatest rank, unless the user names one.
    rank: ClassVar[int] = 0

    def __init__(self, options: msgspec.Struct) -> None:
        self.options: Any = options

    @classmethod
    def unavailable(cls) -> str | None:
        """Return in words why the watcher cannot work on this system; None: it can."""
        return None

    @abstractmethod
    def watch(self, paths: Iterable[str]) -> None:
        """Watch also the files `paths` (absolute paths) from now on.

        The files need not exist. Raises `OSError` when the system refuses.
        """

    @abstractmethod
    def read(self) -> set[str]:
        """Return the files that may have changed."""

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when files may have changed; None: this watcher has no descriptor."""
        return None

    @property
    def interval(self) -> float:
        """Seconds between two calls of `read` for a watcher without a descriptor."""
        return 1.0

    def close(self) -> None:
        """Stop watching and release all resources."""
