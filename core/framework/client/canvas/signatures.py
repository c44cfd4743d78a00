"""`Signature`: a call that has not been made yet, as a dict that messages can carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from framework.client.call_options import still_valid
from framework.client.canvas.documents import append_option
from framework.client.canvas.stamping import StampingVisitor, stamp
from framework.client.canvas.unread import Unread, read_or_unread
from framework.client.current import AppBound
from framework.client.results import AsyncResult, EagerResult
from framework.exceptions import FrameworkError
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework.client.app import App

R = TypeVar("R")

#: The class of a document by its ``subtask_type``; each module registers its class, which others look up here.
KINDS: dict[str, type[Any]] = {}


class Signature(AppBound, dict[str, Any], Generic[R]):
    """A call to be made later: ``add.s(2, 3)``. `R` is the return type of the task.

    Keys: task, args, kwargs, options, subtask_type, immutable. An immutable one (`si`) takes no arguments from a
    preceding task.
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
            if "options" in task:
                self["options"] = dict(task["options"] or {})
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

    @property
    def task(self) -> str:
        """The task's name."""
        return cast("str", self["task"])

    name = task

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments by position."""
        return tuple(self.get("args") or ())

    @args.setter
    def args(self, value: Iterable[Any] | None) -> None:
        self["args"] = () if value is None else tuple(value)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments by name."""
        return cast("dict[str, Any]", self.get("kwargs") or {})

    @kwargs.setter
    def kwargs(self, value: Mapping[str, Any] | None) -> None:
        self["kwargs"] = {} if value is None else dict(value)

    @property
    def options(self) -> dict[str, Any]:
        """The options for `apply_async`."""
        return cast("dict[str, Any]", self.setdefault("options", {}))

    @options.setter
    def options(self, value: Mapping[str, Any] | None) -> None:
        self["options"] = {} if value is None else dict(value)

    @property
    def immutable(self) -> bool:
        """Whether it takes no arguments from a preceding task."""
        return bool(self.get("immutable"))

    @property
    def id(self) -> str | None:
        """The id of the task, or None before `freeze`."""
        return cast("str | None", self.options.get("task_id"))

    @property
    def type(self) -> Any:
        """The task, or None if it is not registered in this process."""
        if self._type is None:
            self._type = self.app.tasks.get(self.task)
        return self._type

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], app: App | None = None) -> Signature[Any]:
        """Return the signature that `document` describes, of the class for its ``subtask_type``."""
        if isinstance(document, Signature) and (app is None or document._app is app):
            return document
        name = document.get("task") if isinstance(document, Mapping) else None
        if not name or not isinstance(name, str):
            if hasattr(document, "apply_async"):
                raise FrameworkError(f"{document!r} is a task, not a signature: write .s(…) after it")
            raise FrameworkError(
                f"a signature must be a mapping with task (a name), args, kwargs and options, not {document!r:.200}"
            )
        subtask_type = document.get("subtask_type")
        kind: type[Any] = KINDS.get(subtask_type, Signature) if isinstance(subtask_type, str) else Signature
        made: Signature[Any] = Signature.__new__(kind)
        dict.__init__(made, document)
        made._type = None
        made._app = app
        made["options"] = dict(document.get("options") or {})
        return made

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy with `args` before its own, `kwargs` and options over its own (if immutable, options only)."""
        made = self.__class__.__new__(self.__class__)
        dict.__init__(made, self)
        made._type, made._app = self._type, self._app
        merged = self._merged(options)
        for name in ("link", "link_error"):
            if isinstance(merged.get(name), list):
                merged[name] = list(merged[name])
        made["options"] = merged
        if not self.immutable:
            made["args"] = (*args, *self.args)
            made["kwargs"] = {**self.kwargs, **kwargs} if kwargs else dict(self.kwargs)
        return made

    partial = clone

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature[R]:
        """Return a copy whose arguments and options are replaced by those given."""
        made = self.clone()
        if args is not None:
            made["args"] = tuple(args)
        if kwargs is not None:
            made["kwargs"] = dict(kwargs)
        if options is not None:
            made["options"] = dict(options)
        return made

    def _merged(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return its options merged with `options`, which override all but its stamps."""
        own = self.options
        if not options:
            return dict(own)
        kept = own.get("stamped_headers")
        merged = {**still_valid(own, options), **options}
        if kept:
            merged.update((name, own[name]) for name in kept if name in own)
            merged["stamped_headers"] = [*kept, *(n for n in options.get("stamped_headers") or () if n not in kept)]
        return merged

    def set(self, immutable: bool | None = None, **options: Any) -> Signature[R]:
        """Set options; return itself."""
        if immutable is not None:
            self["immutable"] = immutable
        kept = still_valid(self.options, options)
        for name in self.options.keys() - kept.keys():
            del self.options[name]
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Set whether it takes no arguments from a preceding task."""
        self["immutable"] = immutable

    def link(self, callback: Signature[Any]) -> Signature[Any]:
        """Add `callback`, which is sent with the result when the task succeeds; return it."""
        append_option(self.options, "link", callback)
        return callback

    def link_error(self, errback: Signature[Any]) -> Signature[Any]:
        """Add `errback`, which is called when the task fails; return it."""
        append_option(self.options, "link_error", errback)
        return errback

    def on_error(self, errback: Signature[Any]) -> Signature[R]:
        """As `link_error`, but return the signature."""
        self.link_error(errback)
        return self

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Assign an id to the task; return its result."""
        own = self.options
        own["task_id"] = task_id or own.get("task_id") or new_id()
        own.setdefault("reply_to", self.app.oid)
        own.update((name, value) for name, value in options.items() if value is not None)
        return AsyncResult(own["task_id"], app=self.app, task_name=self.task)

    def __or__(self, other: Any) -> Any:
        if isinstance(other, dict):
            return KINDS["chain"](self, Signature.from_dict(other, self._app))
        return refuse_task(other)

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Put stamps on it, on its parts and on its callbacks.

        `headers` are names and values of stamps; `visitor` returns others for each part. The new value replaces that of
        an existing stamp; with `append_stamps`, the stamp becomes a list of both.
        """
        stamp(self, visitor, append_stamps, headers)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the task, with `args` before its own; return its result."""
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
        """Run the task in this process."""
        call = self.clone(args, kwargs, **options)
        if call.type is None:
            raise FrameworkError(
                f"the task {call.task!r} is not registered in this process: send it with apply_async()"
            )
        return cast("EagerResult[R]", call.type.apply(call.args, call.kwargs, **call.options))

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Call the function in this process, without a message."""
        call = self.clone(args, kwargs)
        return cast("R", call.type(*call.args, **call.kwargs))

    def __repr__(self) -> str:
        inside = [repr(arg) for arg in self.args] + [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.task}({', '.join(inside)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)


class Several(Signature[R]):
    """The base of chains, groups and chords: a list of signatures."""

    #: The argument that has the list.
    _members: ClassVar[str] = "tasks"

    @property
    def tasks(self) -> list[Signature[Any]]:
        """The signatures."""
        return [Signature.from_dict(task, self._app) for task in self._listed()]

    def _unread(self) -> Unread | None:
        """Return the signatures if they come from an iterator."""
        found = self.kwargs.get(self._members)
        return found if isinstance(found, Unread) else None

    def items(self) -> Any:
        """Return the items, with all signatures read: JSON encoders call this."""
        unread = self._unread()
        if unread is not None:
            self["kwargs"] = {**self.kwargs, self._members: list(unread)}
        return super().items()

    def _cloned(self, args: Iterable[Any], kwargs: Mapping[str, Any] | None) -> list[Any] | Unread:
        """Return clones of the signatures with these arguments."""
        return read_or_unread(self._unread() or self.tasks, lambda task: task.clone(args, kwargs))

    def _listed(self) -> list[Any]:
        members = self.kwargs.get(self._members) or ()
        if isinstance(members, Mapping):  # a group
            members = (members.get("kwargs") or {}).get("tasks") or ()
        return list(members)

    @property
    def app(self) -> App:
        """The application of the first signature that has one, else the current one."""
        if self._app is None:
            unread = self._unread()
            for task in self._listed() if unread is None else [unread.first]:
                if isinstance(task, Signature) and task._app is not None:
                    self._app = task._app
                    break
        return super().app

    def __repr__(self) -> str:
        return ", ".join(map(repr, self.tasks))


def members(tasks: tuple[Any, ...], kind: str) -> Iterable[Any]:
    """Return the signatures in the arguments of `kind`: several, or one iterable of them. Raises `TypeError`."""
    if len(tasks) != 1 or isinstance(tasks[0], dict):
        return tasks
    if not isinstance(tasks[0], Iterable):
        raise TypeError(f"a {kind} takes signatures, such as add.s(1, 1), or an iterable of them, not {tasks[0]!r}")
    return tasks[0]


def is_empty(task: Signature[Any]) -> bool:
    """Return whether `task` is a chain without tasks, or a group of such chains and groups alone."""
    kind = task.get("subtask_type")
    if not isinstance(task, Several) or kind == "chord" or task._unread() is not None:
        return False
    return not task.tasks if kind == "chain" else all(map(is_empty, task.tasks))


def copied(task: Any, app: App | None = None) -> Signature[Any]:
    """Return a copy of `task`, a signature or its document: freezing it, or linking to it, leaves `task` as it is."""
    return Signature.from_dict(task, app).clone()


def refuse_task(other: Any) -> Any:
    """Return `NotImplemented` for ``signature | other``. Raises `TypeError` if `other` is a task."""
    if hasattr(other, "apply_async"):
        raise TypeError(f"{other!r} is a task, not a signature: write .s(…) after it")
    return NotImplemented


def signature(
    task: Any, args: Any = None, kwargs: Any = None, *, app: App | None = None, **options: Any
) -> Signature[Any]:
    """Return a signature of `task`: a name, a task, or a signature or its document, which is copied."""
    if isinstance(task, Mapping):
        return copied(task, app)
    return Signature(task, args, kwargs, app=app, **options)
