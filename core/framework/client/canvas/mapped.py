"""One task for many arguments: in one message (`xmap`, `xstarmap`), or in few (`chunks`).

The message calls ``celery.map`` or ``celery.starmap``, built-in tasks of all workers, Celery's included. It goes to the
queue of the task itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from framework.client.call_options import still_valid
from framework.client.canvas import groups
from framework.client.canvas.signatures import Signature, copied

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.results import AsyncResult, GroupResult

R = TypeVar("R")

_PLACE = ("queue", "exchange", "exchange_type", "routing_key")


class _Mapped(Signature[R]):
    """A call of a task for each of several items."""

    def __init__(self, name: str, task: Any, items: Iterable[Any], *, app: App | None = None, **options: Any) -> None:
        inner = copied(task if isinstance(task, Mapping) else task.s())
        if not isinstance(items, Iterable):
            raise TypeError(f"{name} takes an iterable of arguments, not {items!r:.100}")
        super().__init__(
            name,
            (),
            {"task": inner, "it": list(items)},
            {**still_valid(_place(inner), options), **options},
            immutable=True,
            app=app or inner._app or inner.app,
        )

    def __repr__(self) -> str:
        return f"{self.task}({self.kwargs['task']['task']}, {len(self.kwargs['it'])} items)"


class xmap(_Mapped[R]):  # noqa: N801 - called like a function
    """Call a task with each item: ``xmap(add.s(), items)``, or ``add.map(items)``. The result is a list."""

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        super().__init__("celery.map", task, it, **options)


class xstarmap(_Mapped[R]):  # noqa: N801 - called like a function
    """As `xmap`, with each item unpacked: ``add.starmap([(1, 2), (3, 4)])``."""

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        super().__init__("celery.starmap", task, it, **options)


class chunks(Signature[R]):  # noqa: N801 - called like a function
    """`xstarmap` in parts of `n` items, sent as a group: ``add.chunks(pairs, 100)``."""

    def __init__(self, task: Any, it: Iterable[Any], n: int, *, app: App | None = None, **options: Any) -> None:
        """Raises `ValueError` if `n` is less than one."""
        if n < 1:
            raise ValueError(f"chunks must have at least one item, but n is {n!r}")
        inner = copied(task if isinstance(task, Mapping) else task.s())
        super().__init__(
            "celery.chunks",
            (),
            {"task": inner, "it": it, "n": n},
            options,
            immutable=True,
            app=app or inner._app or inner.app,
        )

    def group(self) -> groups.group[Any]:
        """Return the equivalent group of `xstarmap`s. This reads the items from their iterable."""
        given = self.kwargs
        inner = given["task"]
        parts: list[xstarmap[Any]] = [xstarmap(inner, part, app=self._app) for part in _parts(given["it"], given["n"])]
        return groups.group(parts, app=self._app)

    def apply_async(  # type: ignore[override] # several tasks have several results
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Send the parts."""
        return self.group().apply_async(**self._merged(options))

    def apply(  # type: ignore[override] # several tasks have several results
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Run the parts in this process."""
        return self.group().apply(**self._merged(options))

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Raise `TypeError`: only the group of the parts can have ids."""
        raise TypeError("chunks inside a workflow: write chunks(…).group() there")

    def __or__(self, other: Any) -> Any:
        return self.group() | other if isinstance(other, dict) else NotImplemented

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send the parts."""
        return self.apply_async(**options)

    def __repr__(self) -> str:
        return f"celery.chunks({self.kwargs['task']['task']}, by {self.kwargs['n']})"


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def _place(inner: Signature[Any]) -> dict[str, Any]:
    """Return the address options of `inner`: its own, those of its task, and those of its route."""
    sender = inner.app.sender
    given = {**still_valid(sender.plan(inner.task, inner.type).options, inner.options), **inner.options}
    if not sender.router.plain:
        given = sender.router.route(inner.task, inner.args, inner.kwargs, given, inner.type)
    return {name: given[name] for name in _PLACE if given.get(name) is not None}
