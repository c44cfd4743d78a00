"""Signatures: calls that have not been made yet, and simple ways to put them together.

1. `Signature` is a task's name with arguments and options; a dict, so that it travels inside messages as it is.
2. `chain` runs one after the other, each getting the result of the one before; `a | b` makes one.
3. `group` sends several at once, under one group id.
4. `signature` and `Signature.from_dict` make them again from what came in a message.

Source: the signature documents of Celery 5 (task protocol 2, embed).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from framework._identity import new_id
from framework._request import parent_request
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.app import App
    from framework.results import AsyncResult, EagerResult, GroupResult

__all__ = ["Signature", "chain", "chord", "group", "signature"]

R = TypeVar("R")


class Signature(dict[str, Any], Generic[R]):
    """A call to be made later: ``add.s(2, 3)``. `R` is what the task returns.

    Keys: task, args, kwargs, options, subtask_type, immutable. An immutable one (`si`) takes no arguments from a
    task before it.
    """

    subtask_type: str | None = None

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        app: App | None = None,
        type: Any = None,  # noqa: A002 - Celery's name for the task object
        subtask_type: str | None = None,
        **more: Any,
    ) -> None:
        """`task` is a name, a task, or another signature's dict; `more` are further options."""
        self._type = type
        self._app = app
        if isinstance(task, dict):
            super().__init__(task)
            if app is None and isinstance(task, Signature):
                self._app, self._type = task._app, task._type
            return
        name = task
        if task is not None and not isinstance(task, str):
            name, self._type = task.name, task
            self._app = app or task.app
        super().__init__(
            task=name,
            args=() if args is None else tuple(args),
            kwargs={} if kwargs is None else dict(kwargs),
            options={**options, **more} if options else more,
            subtask_type=subtask_type or self.subtask_type,
            immutable=immutable,
        )

    # ------------------------------------------------ parts

    @property
    def task(self) -> str:
        """The task's name."""
        return cast("str", self["task"])

    name = task

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments by position."""
        return tuple(self.get("args") or ())

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments by name."""
        return cast("dict[str, Any]", self.get("kwargs") or {})

    @property
    def options(self) -> dict[str, Any]:
        """What `apply_async` will be given."""
        return cast("dict[str, Any]", self.setdefault("options", {}))

    @property
    def immutable(self) -> bool:
        """Whether it takes no arguments from a task before it."""
        return bool(self.get("immutable"))

    @property
    def id(self) -> str | None:
        """The id the task will have, if that is settled (see `freeze`)."""
        return cast("str | None", self.options.get("task_id"))

    @property
    def app(self) -> App:
        """The application it belongs to: the one it was made with, else the current one."""
        if self._app is None:
            from framework._apps import current_app

            self._app = current_app()
        return self._app

    @property
    def type(self) -> Any:
        """The task itself, or None when this process does not have it."""
        if self._type is None:
            self._type = self.app.tasks.get(self.task)
        return self._type

    # ------------------------------------------------ making others of it

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], app: App | None = None) -> Signature[Any]:
        """Return the signature that `document` describes, of the class its ``subtask_type`` says."""
        if isinstance(document, Signature) and (app is None or document._app is app):
            return document
        name = document.get("task") if isinstance(document, Mapping) else None
        if not name or not isinstance(name, str):
            raise FrameworkError(
                "not a signature: it must be a mapping with task (a name), args, kwargs and options, "
                f"and is {document!r:.200}"
            )
        kind = _KINDS.get(document.get("subtask_type") or "", Signature)
        made: Signature[Any] = kind.__new__(kind)
        dict.__init__(made, document)
        made._type = None
        made._app = app
        made["options"] = dict(document.get("options") or {})
        return made

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy: `args` put before its own, `kwargs` and options over its own (unless it is immutable)."""
        made = self.__class__.__new__(self.__class__)
        dict.__init__(made, self)
        made._type, made._app = self._type, self._app
        merged = {**self.options, **options}
        for name in ("link", "link_error"):
            if isinstance(merged.get(name), list):
                merged[name] = list(merged[name])
        made["options"] = merged
        if not self.immutable:
            made["args"] = (*args, *self.args)
            made["kwargs"] = {**self.kwargs, **kwargs} if kwargs else dict(self.kwargs)
        return made

    partial = clone

    def set(self, immutable: bool | None = None, **options: Any) -> Signature[R]:
        """Set options; return itself."""
        if immutable is not None:
            self["immutable"] = immutable
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Make it take, or not take, arguments from a task before it."""
        self["immutable"] = immutable

    def link(self, callback: Signature[Any]) -> Signature[Any]:
        """Have `callback` sent with the result when the task succeeds; return `callback`."""
        _append(self.options, "link", callback)
        return callback

    def link_error(self, errback: Signature[Any]) -> Signature[Any]:
        """Have `errback` called when the task fails; return `errback`."""
        _append(self.options, "link_error", errback)
        return errback

    def on_error(self, errback: Signature[Any]) -> Signature[R]:
        """As `link_error`, and return itself."""
        self.link_error(errback)
        return self

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Settle the id of the task now; return its result."""
        from framework.results import AsyncResult

        own = self.options
        own["task_id"] = task_id or own.get("task_id") or new_id()
        own.setdefault("reply_to", self.app.oid)
        own.update((name, value) for name, value in options.items() if value is not None)
        return AsyncResult(own["task_id"], app=self.app, task_name=self.task)

    def __or__(self, other: Any) -> Any:
        if isinstance(other, dict):
            return chain(self, Signature.from_dict(other, self._app))
        return NotImplemented

    # ------------------------------------------------ making the call

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the task; `args` are put before its own. Returns its result."""
        call = self if not args and not kwargs and not options else self.clone(args, kwargs, **options)
        task = call.type
        if task is None:
            return call.app.send_task(call.task, call.args, call.kwargs, **call.options)
        return cast("AsyncResult[R]", task.apply_async(call.args, call.kwargs, **call.options))

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Send the task with these arguments before its own."""
        return self.apply_async(args, kwargs)

    def apply(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run the task here and now."""
        call = self.clone(args, kwargs, **options)
        if call.type is None:
            raise FrameworkError(f"the task {call.task!r} is not registered here, so it can only be sent")
        return cast("EagerResult[R]", call.type.apply(call.args, call.kwargs, **call.options))

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Call the function here and now, as a function."""
        call = self.clone(args, kwargs)
        return cast("R", call.type(*call.args, **call.kwargs))

    def __repr__(self) -> str:
        inside = [repr(arg) for arg in self.args] + [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.task}({', '.join(inside)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)


def _append(options: dict[str, Any], name: str, item: Any) -> None:
    present = options.get(name)
    items = [] if present is None else list(present) if isinstance(present, (list, tuple)) else [present]
    if item not in items:
        items.append(item)
    options[name] = items


class _Several(Signature[R]):
    """What `chain` and `group` share: a list of signatures in ``kwargs["tasks"]``."""

    @property
    def tasks(self) -> list[Signature[Any]]:
        """The signatures."""
        return [Signature.from_dict(task, self._app) for task in self.kwargs.get("tasks", ())]

    @property
    def app(self) -> App:
        """The application of the first of them that has one, else the current one."""
        if self._app is None:
            for task in self.kwargs.get("tasks", ()):
                if isinstance(task, Signature) and task._app is not None:
                    self._app = task._app
                    break
        return super().app

    def __iter__(self) -> Iterator[Any]:
        return dict.__iter__(self)

    def __repr__(self) -> str:
        return (" | " if self.subtask_type == "chain" else ", ").join(map(repr, self.tasks))


def _flattened(tasks: Iterable[Any]) -> list[Signature[Any]]:
    """Return `tasks` with the links of chains among them instead of the chains."""
    flat: list[Signature[Any]] = []
    for task in tasks:
        made = Signature.from_dict(task)
        flat.extend(made.tasks if isinstance(made, chain) else [made])
    return flat


class chain(_Several[R]):  # noqa: N801 - called like a function
    """Tasks that run one after the other: ``chain(add.s(1, 2), double.s())``, or ``add.s(1, 2) | double.s()``.

    Each but the immutable ones gets the result of the one before as its first argument. A group may only be the last.
    """

    subtask_type = "chain"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if len(tasks) == 1 and not isinstance(tasks[0], dict):
            tasks = tuple(tasks[0])
        flat = _flattened(tasks)
        _refuse_chords(flat)
        super().__init__("celery.chain", (), {"tasks": flat}, options)

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy; `args` go to its first task."""
        made = cast("chain[R]", super().clone((), None, **options))
        tasks = [task.clone() for task in self.tasks]
        if tasks and (args or kwargs):
            tasks[0] = tasks[0].clone(args, kwargs)
        made["kwargs"] = {"tasks": tasks}
        return made

    def __or__(self, other: Any) -> Any:
        if isinstance(other, dict):
            return chain(*self.tasks, Signature.from_dict(other, self._app))
        return NotImplemented

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Settle the ids of all tasks; return the result of the last, whose parents are the others."""
        tasks = self.tasks
        if not tasks:
            raise FrameworkError("a chain needs at least one task")
        before: Any = None
        result: Any = None
        for position, task in enumerate(tasks):
            last = position == len(tasks) - 1
            result = task.freeze(
                (task_id or self.options.get("task_id")) if last else None, **(options if last else {})
            )
            result.parent = before
            before = result
        self["kwargs"] = {"tasks": tasks}
        return cast("AsyncResult[R]", result)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the first task, which carries the others; return the result of the last."""
        work = cast("chain[R]", self.clone(args, kwargs, **options))
        own = dict(work.options)
        work.app  # noqa: B018 - settle it before the ids are
        errbacks = own.pop("link_error", None)
        callbacks = own.pop("link", None)
        rest = {name: own.pop(name, None) for name in ("chain", "group_id", "group_index", "chord")}
        task_id = own.pop("task_id", None)
        for task in work.tasks:
            for errback in _listed(errbacks):
                task.link_error(errback)
        last = work.tasks[-1]
        for callback in _listed(callbacks):
            last.link(callback)
        result = work.freeze(task_id, group_id=rest["group_id"], group_index=rest["group_index"], chord=rest["chord"])
        first, *others = work.tasks
        following = [*(rest["chain"] or ()), *reversed(others)]
        sent = first.apply_async(chain=following or None, **own)
        if result.id == sent.id:
            return cast("AsyncResult[R]", sent)
        return result

    def apply(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run all tasks here and now, until one fails."""
        result: Any = None
        before: Any = None
        for task in cast("chain[R]", self.clone(args, kwargs)).tasks:
            result = task.apply(() if before is None else (before.get(),), **options)
            result.parent = before
            before = result
            if result.failed():
                break
        return cast("EagerResult[R]", result)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send the first task, with `args` before its own; return the result of the last."""
        return self.apply_async(args, **options)


class group(_Several[R]):  # noqa: N801 - called like a function
    """Tasks that are sent at once: ``group(add.s(n, n) for n in range(10))``."""

    subtask_type = "group"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if len(tasks) == 1 and not isinstance(tasks[0], dict):
            tasks = tuple(tasks[0])
        super().__init__("celery.group", (), {"tasks": [Signature.from_dict(task) for task in tasks]}, options)

    @property
    def id(self) -> str | None:
        """The group's id, if that is settled."""
        return cast("str | None", self.options.get("task_id"))

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy; `args` go to each of its tasks."""
        made = cast("group[R]", super().clone((), None, **options))
        args = tuple(args)
        made["kwargs"] = {"tasks": [task.clone(args, kwargs) for task in self.tasks]}
        return made

    def __or__(self, other: Any) -> Any:
        if isinstance(other, dict):
            raise _no_chords()
        return NotImplemented

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Settle the group's id and those of its tasks; return a `GroupResult`."""
        from framework.results import GroupResult

        group_id = task_id or self.options.get("task_id") or new_id()
        self.options["task_id"] = group_id
        tasks = self.tasks
        results = [task.freeze(None, group_id=group_id, group_index=index) for index, task in enumerate(tasks)]
        self["kwargs"] = {"tasks": tasks}
        return cast("AsyncResult[R]", GroupResult(group_id, results, app=self.app))

    def apply_async(  # type: ignore[override] # several tasks have several results
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Send all tasks in one go; return their results."""
        if options.get("chain") or self.options.get("chain"):
            raise _no_chords()
        work = cast("group[R]", self.clone(args, kwargs))
        own = {**work.options, **options}
        own.pop("chain", None)
        to_parent = own.pop("add_to_parent", True)
        group_id = own.pop("task_id", None)
        for name in ("link", "link_error"):
            for item in _listed(own.pop(name, None)):
                for task in work.tasks:
                    _append(task.options, name, item)
        result = cast("GroupResult", work.freeze(group_id))
        simple = [task for task in work.tasks if not isinstance(task, _Several)]
        work.app.send_many(simple, **own, add_to_parent=False)
        for task in work.tasks:
            if isinstance(task, _Several):
                task.apply_async(**own, add_to_parent=False)
        parent = parent_request()
        if parent is not None and to_parent:
            parent.add_child(result)
        return result

    def apply(  # type: ignore[override] # several tasks have several results
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Run all tasks here and now, one after the other."""
        from framework.results import GroupResult

        work = cast("group[R]", self.clone(args, kwargs))
        return GroupResult(new_id(), [task.apply(**options) for task in work.tasks], app=work.app)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send all tasks."""
        return self.apply_async(args, **options)


def chord(*_args: Any, **_kwargs: Any) -> Any:
    """Chords are not available yet. Raises `FrameworkError`."""
    raise _no_chords()


def _no_chords() -> FrameworkError:
    return FrameworkError(
        "chords (a group followed by a task) are not available in this release; "
        "collect the results of the group with GroupResult.get() and send the next task with them"
    )


def _refuse_chords(tasks: list[Signature[Any]]) -> None:
    if any(isinstance(task, group) for task in tasks[:-1]):
        raise _no_chords()


def _listed(items: Any) -> list[Any]:
    if items is None:
        return []
    return list(items) if isinstance(items, (list, tuple)) else [items]


_KINDS: dict[str, type[Signature[Any]]] = {"chain": chain, "group": group}


def signature(
    task: Any, args: Any = None, kwargs: Any = None, *, app: App | None = None, **options: Any
) -> Signature[Any]:
    """Return a signature of `task`: a name, a task, or a mapping that describes one."""
    if isinstance(task, Mapping):
        return Signature.from_dict(task, app)
    return Signature(task, args, kwargs, app=app, **options)
