"""`group`: tasks that are sent at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from framework.client.canvas.documents import append_option, listed
from framework.client.canvas.signatures import KINDS, Several, Signature, copied, is_empty, members, refuse_task
from framework.client.canvas.unread import read_or_unread
from framework.client.request import parent_request
from framework.client.results import AsyncResult, GroupResult
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework.client.app import App

R = TypeVar("R")

#: Options about a single result, such as that of a chord's body.
OF_THE_RESULT = ("group_id", "group_index", "chord", "chain", "link", "reply_to", "shadow")

#: The most tasks from an iterator that are read before they are sent.
_BATCH: Final = 500


class group(Several[R]):  # noqa: N801 - called like a function
    """Tasks that are sent at once: ``group(add.s(n, n) for n in range(10))``. ``group | task`` is a chord."""

    subtask_type = "group"

    def __init__(self, *tasks: Any, app: App | None = None, **options: Any) -> None:
        made = read_or_unread(members(tasks, "group"), copied)
        super().__init__("celery.group", (), {"tasks": made}, options, app=app)

    @property
    def id(self) -> str | None:
        """The group's id, or None before `freeze`."""
        return cast("str | None", self.options.get("task_id"))

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy; `args` go to each of its tasks."""
        made = cast("group[R]", super().clone((), None, **options))
        made["kwargs"] = {"tasks": self._cloned((), None) if self.immutable else self._cloned(tuple(args), kwargs)}
        return made

    def __or__(self, other: Any) -> Any:
        if isinstance(other, dict):
            following = Signature.from_dict(other, self._app)
            left_out = isinstance(following, group) and is_empty(following) and not is_empty(self)
            return KINDS["chain" if left_out else "chord"](self, following)
        return refuse_task(other)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group[R]:
        """Delay the tasks: the first by `start` seconds, each by `step` more than the preceding one, up to `stop`."""
        for place, task in zip(count(), self._own_tasks(), strict=False):
            delay = start + place * step
            task.set(countdown=delay if stop is None else min(delay, stop))
        return self

    def _own_tasks(self) -> list[Signature[Any]]:
        """Return the tasks of the group and of inner groups for changes, after storing them in the group."""
        tasks = list(_leaves(self.tasks))
        self["kwargs"] = {**self.kwargs, "tasks": tasks}
        return tasks

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Assign ids to the group and to its tasks; return a `GroupResult`.

        With `chord`, the signature of a body, the tasks are members of its header.
        """
        group_id = task_id or self.options.get("task_id") or new_id()
        self.options["task_id"] = group_id
        body = options.get("chord")
        results = [_freeze(task, group_id, index, body) for index, task in enumerate(self._own_tasks())]
        return cast("AsyncResult[R]", GroupResult(group_id, results, app=self.app))

    def apply_async(  # type: ignore[override] # several tasks have several results
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Send all tasks at once; return their results.

        With the option `chain`, signatures to run afterwards: send a chord and return its result.
        """
        work = cast("group[R]", self.clone(args, kwargs, **options))
        own = dict(work.options)
        following = listed(own.pop("chain", None))
        if following:
            work["options"] = {}
            return cast(
                "GroupResult", KINDS["chord"](work, following.pop()).apply_async(chain=following or None, **own)
            )
        if work.app.conf.settings.task.always_eager:
            return work.apply()
        to_parent = own.pop("add_to_parent", True)
        group_id = own.pop("task_id", None)
        # The tasks carry their place in a chord themselves.
        for name in ("group_id", "group_index", "chord"):
            own.pop(name, None)
        links, errbacks = listed(own.pop("link", None)), listed(own.pop("link_error", None))

        def linked(task: Signature[Any]) -> Signature[Any]:
            for link in links:
                task.link(link)
            for errback in errbacks:
                task.link_error(errback)
            return task

        unread = work._unread()
        if unread is None:
            for task in work._own_tasks():
                linked(task)
            result = cast("GroupResult", work.freeze(group_id))
            send_all(work.app, work.tasks, own)
        else:
            result = send_unread(work.app, map(linked, _leaves(unread.take())), group_id or new_id(), own)
        parent = parent_request()
        if parent is not None and to_parent:
            parent.add_child(result)
        return result

    def apply(  # type: ignore[override] # several tasks have several results
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Run all tasks in this process, one after the other."""
        work = cast("group[R]", self.clone(args, kwargs, **options))
        own = dict(work.options)
        group_id = own.pop("task_id", None) or new_id()
        tasks = work._own_tasks()
        for name in ("link", "link_error"):
            for item in listed(own.pop(name, None)):
                for task in tasks:
                    append_option(task.options, name, item)
        return GroupResult(group_id, [task.apply(**own) for task in tasks], app=work.app)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send all tasks."""
        return self.apply_async(args, **options)


def _leaves(tasks: Iterable[Signature[Any]]) -> Iterator[Signature[Any]]:
    """Return `tasks` with inner groups replaced by their tasks, without empty chains."""
    for task in tasks:
        if isinstance(task, group):
            yield from _leaves(spread(task))
        elif not is_empty(task):
            yield task


def _freeze(task: Signature[Any], group_id: str, index: int, body: Signature[Any] | None) -> AsyncResult[Any]:
    """Assign an id and its place in a group to `task`; with `body`, make it a member of a chord's header."""
    if body is None and "chord" in task.options:
        # The sender of the chord has set the place of this task already.
        return task.freeze()
    return task.freeze(None, group_id=group_id, group_index=index, chord=body)


def spreading(tasks: group[Any]) -> Callable[[Signature[Any]], Signature[Any]]:
    """Return a function that returns a task of a group with the options of the group."""
    common = {name: value for name, value in tasks.options.items() if name not in ("task_id", *OF_THE_RESULT)}
    links, errbacks = listed(tasks.options.get("link")), listed(common.pop("link_error", None))

    def change(each: Signature[Any]) -> Signature[Any]:
        if not (common or links or errbacks):
            return each
        task = each.clone()
        task["options"] = {**common, **task.options}
        for link in links:
            task.link(link)
        for errback in errbacks:
            task.link_error(errback)
        return task

    return change


def spread(tasks: group[Any]) -> Iterator[Signature[Any]]:
    """Return the tasks of a group, with the options of the group."""
    return map(spreading(tasks), tasks.tasks)


def send_unread(
    app: App,
    tasks: Iterator[Signature[Any]],
    group_id: str,
    options: Mapping[str, Any],
    body: Signature[Any] | None = None,
    before_last: Callable[[int], object] | None = None,
) -> GroupResult:
    """Send `tasks` as a group, or as the header of `body`, as they are read; return their results.

    `before_last` is called with their number before the last of them are sent.
    """
    results: list[AsyncResult[Any]] = []
    batch = list(islice(tasks, _BATCH))
    while batch:
        following = list(islice(tasks, 1))
        results += [_freeze(task, group_id, index, body) for index, task in enumerate(batch, len(results))]
        if before_last is not None and not following:
            before_last(len(results))
        send_all(app, batch, options)
        batch = following and [*following, *islice(tasks, _BATCH - 1)]
    return GroupResult(group_id, results, app=app)


def send_all(app: App, tasks: Sequence[Signature[Any]], options: Mapping[str, Any]) -> None:
    """Send `tasks`, which have ids: the plain ones at once."""
    # Each task has its own stamps already.
    stamps = ("stamped_headers", *listed(options.get("stamped_headers")))
    options = {name: value for name, value in options.items() if name not in stamps}
    app.send_many([task for task in tasks if type(task) is Signature], **options, add_to_parent=False)
    for task in tasks:
        if type(task) is not Signature:
            task.apply_async(**options, add_to_parent=False)


KINDS["group"] = group
