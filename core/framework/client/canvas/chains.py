"""`chain`: tasks that run one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from framework.client.canvas.documents import listed
from framework.client.canvas.signatures import KINDS, Several, Signature, copied, is_empty, members, refuse_task
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.results import AsyncResult, EagerResult

R = TypeVar("R")

#: Options of a chain that are passed to its last task.
_OF_THE_LAST = ("group_id", "group_index", "chord")


class chain(Several[R]):  # noqa: N801 - called like a function
    """Tasks that run one after the other: ``chain(add.s(1, 2), double.s())``, or ``add.s(1, 2) | double.s()``.

    Each task, unless immutable, gets the result of the preceding one as its first argument. A group and the task after
    it become a chord.
    """

    subtask_type = "chain"

    def __init__(self, *tasks: Any, app: App | None = None, **options: Any) -> None:
        super().__init__("celery.chain", (), {"tasks": steps(map(copied, members(tasks, "chain")))}, options, app=app)

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy; `args` go to its first task."""
        made = cast("chain[R]", super().clone((), None, **options))
        tasks = [task.clone() for task in steps(self.tasks)]
        if tasks and (args or kwargs) and not self.immutable:
            tasks[0] = tasks[0].clone(args, kwargs)
        made["kwargs"] = {"tasks": tasks}
        return made

    def __or__(self, other: Any) -> Any:
        if isinstance(other, dict):
            made = cast("chain[Any]", self.clone())
            # The id, if any, is that of the former last task.
            made.options.pop("task_id", None)
            made["kwargs"] = {"tasks": steps([*made.tasks, copied(other, self._app)])}
            return made
        return refuse_task(other)

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Assign ids to all tasks; return the result of the last, with the others as its parents."""
        tasks = steps(self.tasks)
        if not tasks:
            raise FrameworkError("a chain needs at least one task")
        before: Any = None
        result: Any = None
        for position, task in enumerate(tasks):
            last = position == len(tasks) - 1
            result = task.freeze(
                (task_id or self.options.get("task_id")) if last else None, **(options if last else {})
            )
            set_parent(result, before)
            before = result
        self["kwargs"] = {"tasks": tasks}
        # Celery's workers store the failure of a chain that is the body of a chord under this id.
        self.options["task_id"] = result.id
        return cast("AsyncResult[R]", result)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the first task, whose message carries the others; return the result of the last.

        A chain without tasks sends nothing and returns None.
        """
        work = cast("chain[R]", self.clone(args, kwargs, **options))
        if not work.tasks:
            return cast("AsyncResult[R]", None)
        if work.app.conf.settings.task.always_eager:
            return work.apply()
        if any(task.get("subtask_type") == "chord" for task in work.tasks):
            # Checked now, not after the preceding tasks have run.
            require_chords(work.app)
        own = dict(work.options)
        errbacks = listed(own.pop("link_error", None))
        callbacks = listed(own.pop("link", None))
        rest = listed(own.pop("chain", None))
        of_the_last = {name: own.pop(name, None) for name in _OF_THE_LAST}
        first, *others = work.tasks
        if not others and isinstance(first, Several) and first._unread() is not None:
            # To assign ids, all of its tasks would be read before any is sent.
            own |= {name: value for name, value in of_the_last.items() if value is not None}
            return first.apply_async(link=callbacks, link_error=errbacks, chain=rest or None, **own)
        result = work.freeze(own.pop("task_id", None), **of_the_last)
        first, *others = work.tasks
        for task in (first, *others):
            for errback in errbacks:
                task.link_error(errback)
        for callback in callbacks:
            work.tasks[-1].link(callback)
        if "replaced_task_nesting" in own:
            for task in others:
                task.set(replaced_task_nesting=own["replaced_task_nesting"])
        sent = first.apply_async(chain=[*rest, *reversed(others)] or None, **own)
        return result if others else cast("AsyncResult[R]", sent)

    def apply(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run all tasks in this process, until one fails."""
        work = cast("chain[R]", self.clone(args, kwargs, **options))
        own = dict(work.options)
        callbacks, errbacks = own.pop("link", None), listed(own.pop("link_error", None))
        task_id = own.pop("task_id", None)
        tasks = steps(work.tasks)
        for task in tasks:
            for errback in errbacks:
                task.link_error(errback)
        for callback in listed(callbacks):
            tasks[-1].link(callback)
        result: Any = None
        before: Any = None
        for task in tasks:
            ident = {"task_id": task_id} if task_id and task is tasks[-1] else {}
            result = task.apply(() if before is None else (before.get(),), **own, **ident)
            set_parent(result, before)
            before = result
            if result.failed():
                break
        return cast("EagerResult[R]", result)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send the first task, with `args` before its own; return the result of the last."""
        return self.apply_async(args, **options)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))


def steps(tasks: Iterable[Any]) -> list[Signature[Any]]:
    """Return `tasks` with inner chains replaced by their tasks, and each group and its successor by a chord.

    Groups without tasks are left out of a chain that has other steps, too.
    """
    group, chord = KINDS["group"], KINDS["chord"]
    flat: list[Signature[Any]] = []
    for task in tasks:
        made = Signature.from_dict(task)
        flat.extend(_links_of(made) if isinstance(made, chain) else [made])
    found: list[Signature[Any]] = []
    for step in flat if len(flat) < 2 else itertools.filterfalse(is_empty, flat):
        before = found[-1] if found else None
        if isinstance(before, group):
            found[-1] = chord(before, step)
        elif isinstance(before, chord):
            found[-1] = before | step
        else:
            found.append(step)
    return found


def _links_of(inner: chain[Any]) -> list[Signature[Any]]:
    """Return the tasks of a chain inside another, with the callbacks of the chain."""
    links, errbacks = listed(inner.options.get("link")), listed(inner.options.get("link_error"))
    tasks = [task.clone() for task in inner.tasks] if links or errbacks else inner.tasks
    for task in tasks:
        for errback in errbacks:
            task.link_error(errback)
    for link in links:
        tasks[-1].link(link)
    return tasks


def set_parent(result: Any, parent: Any) -> None:
    """Make `parent` the parent of `result`, or of its topmost parent if it has one."""
    seen = set()
    while result.parent is not None and id(result) not in seen:
        seen.add(id(result))
        result = result.parent
    result.parent = parent


def require_chords(app: App) -> None:
    """Raise `ConfigError` if the result store cannot count the parts of chords."""
    store = app.result_store
    if not store.traits.chords:
        store._without_chords()


KINDS["chain"] = chain
