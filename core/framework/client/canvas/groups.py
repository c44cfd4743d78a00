"""`group`: tasks that are sent at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

from framework.client.canvas.documents import append_option, listed
from framework.client.canvas.signatures import KINDS, Several, Signature, copied, is_empty, members, refuse_task
from framework.client.request import parent_request
from framework.client.results import AsyncResult, GroupResult
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework.client.app import App

R = TypeVar("R")

#: Options about a single result, such as that of a chord's body.
OF_THE_RESULT = ("group_id", "group_index", "chord", "chain", "link", "reply_to", "shadow")


class group(Several[R]):  # noqa: N801 - called like a function
    """Tasks that are sent at once: ``group(add.s(n, n) for n in range(10))``. ``group | task`` is a chord."""

    subtask_type = "group"

    def __init__(self, *tasks: Any, app: App | None = None, **options: Any) -> None:
        made = [copied(task) for task in members(tasks, "group")]
        super().__init__("celery.group", (), {"tasks": made}, options, app=app)

    @property
    def id(self) -> str | None:
        """The group's id, or None before `freeze`."""
        return cast("str | None", self.options.get("task_id"))

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy; `args` go to each of its tasks."""
        made = cast("group[R]", super().clone((), None, **options))
        args, kwargs = ((), None) if self.immutable else (tuple(args), kwargs)
        made["kwargs"] = {"tasks": [task.clone(args, kwargs) for task in self.tasks]}
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
        tasks = _leaves(self)
        self["kwargs"] = {**self.kwargs, "tasks": tasks}
        return tasks

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Assign ids to the group and to its tasks; return a `GroupResult`.

        With `chord`, the signature of a body, the tasks are members of its header.
        """
        group_id = task_id or self.options.get("task_id") or new_id()
        self.options["task_id"] = group_id
        body = options.get("chord")
        results = []
        for index, task in enumerate(self._own_tasks()):
            if body is None and "chord" in task.options:
                # The sender of the chord has set the place of this task already.
                results.append(task.freeze())
            else:
                results.append(task.freeze(None, group_id=group_id, group_index=index, chord=body))
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
        tasks = work._own_tasks()
        for name in ("link", "link_error"):
            for item in listed(own.pop(name, None)):
                for task in tasks:
                    task.link(item) if name == "link" else task.link_error(item)
        result = cast("GroupResult", work.freeze(group_id))
        send_all(work, own)
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


def _leaves(work: group[Any]) -> list[Signature[Any]]:
    """Return the tasks of `work`, with inner groups replaced by their tasks, without empty chains."""
    found: list[Signature[Any]] = []
    for task in work.tasks:
        if isinstance(task, group):
            found.extend(_leaves(group(spread(task), app=task._app)))
        elif not is_empty(task):
            found.append(task)
    return found


def spread(tasks: group[Any]) -> list[Signature[Any]]:
    """Return the tasks of a group, with the options of the group."""
    common = {name: value for name, value in tasks.options.items() if name not in ("task_id", *OF_THE_RESULT)}
    links, errbacks = listed(tasks.options.get("link")), listed(common.pop("link_error", None))
    if not (common or links or errbacks):
        return tasks.tasks
    found = []
    for each in tasks.tasks:
        task = each.clone()
        task["options"] = {**common, **task.options}
        for link in links:
            task.link(link)
        for errback in errbacks:
            task.link_error(errback)
        found.append(task)
    return found


def send_all(work: group[Any], options: Mapping[str, Any]) -> None:
    """Send the tasks of `work`, which have ids: the plain ones at once."""
    tasks = work.tasks
    # Each task has its own stamps already.
    stamps = ("stamped_headers", *listed(options.get("stamped_headers")))
    options = {name: value for name, value in options.items() if name not in stamps}
    work.app.send_many([task for task in tasks if type(task) is Signature], **options, add_to_parent=False)
    for task in tasks:
        if type(task) is not Signature:
            task.apply_async(**options, add_to_parent=False)


KINDS["group"] = group
