"""`Unread`: the tasks of a group or a header that come from an iterator and are read only while they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from framework.exceptions import FrameworkError

Change = Callable[[Any], Any]


class Unread:
    """Signatures from an iterator; iterating over them reads all and keeps them, `take` keeps none."""

    def __init__(self, tasks: Iterator[Any] | Unread, change: Change) -> None:
        """`change` makes what is returned of each of `tasks`, an iterator or what another one reads."""
        self._tasks = tasks
        self._change = change
        #: The first signature, before its change.
        self.first: Any = tasks.first if isinstance(tasks, Unread) else None
        self._kept: list[Any] | None = None
        self._is_taken = False

    def take(self) -> Iterator[Any]:
        """Return the signatures for the only time, unless they are kept. Raises `FrameworkError` the second time."""
        if self._kept is not None:
            return iter(self._kept)
        if isinstance(self._tasks, Unread):
            return map(self._change, self._tasks.take())
        if self._is_taken:
            raise FrameworkError(
                "the iterator of this group was read to send its tasks: to send them again, make the group of a list"
            )
        self._is_taken = True
        return map(self._change, self._tasks)

    def __iter__(self) -> Iterator[Any]:
        if self._kept is None:
            tasks = map(self._change, self._tasks) if isinstance(self._tasks, Unread) else self.take()
            self._kept = list(tasks)
        return iter(self._kept)

    def __eq__(self, other: object) -> bool:
        return list(self) == (list(other) if isinstance(other, Unread) else other)

    __hash__ = None  # type: ignore[assignment]

    def __json__(self) -> list[Any]:
        return list(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def read_or_unread(tasks: Iterable[Any] | Unread, change: Change) -> list[Any] | Unread:
    """Return `tasks` changed: a list, or unread if they are, or an iterator that has a first one."""
    if isinstance(tasks, Unread):
        return Unread(tasks, change)
    if not isinstance(tasks, Iterator):
        return [change(task) for task in tasks]
    # The first one is read now: it shows whether these are signatures at all, and of which application.
    first = [change(task) for task in islice(tasks, 1)]
    if not first:
        return first
    made = Unread(chain(first, map(change, tasks)), _same)
    (made.first,) = first
    return made


def _same(task: Any) -> Any:
    return task
