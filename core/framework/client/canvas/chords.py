"""`chord`: a task, the body, that gets the results of a group, the header.

1. The sender stores the number of results in the result store, then sends the header; each of its messages carries the
   body. Workers count the results, see `framework.client.workflow.chord_counting`.
2. Each task of the header must have exactly one result. So a group in the header is replaced by its tasks, and a group
   at the end of a chain in the header becomes a chord whose body collects the results in a list.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar, cast

from framework.client.call_options import still_valid
from framework.client.canvas.chains import chain, require_chords, set_parent
from framework.client.canvas.documents import append_option, failing_parts, frozen_tasks, listed
from framework.client.canvas.errbacks import call_errbacks
from framework.client.canvas.groups import OF_THE_RESULT, group, send_all, send_unread, spread, spreading
from framework.client.canvas.signatures import KINDS, Several, Signature, copied, is_empty, members, refuse_task
from framework.client.canvas.unread import Unread, read_or_unread
from framework.client.request import Context, parent_request
from framework.client.results import AsyncResult, EagerResult, GroupResult
from framework.exceptions import ChordError, FrameworkError
from framework.wire.identity import new_id

R = TypeVar("R")

#: Options about the time of the start.
_OF_THE_HEADER = ("countdown", "eta")
_PLACE = ("queue", "exchange", "exchange_type", "routing_key")


class chord(Several[R]):  # noqa: N801 - called like a function
    """A task that gets the results of others: ``chord([add.s(1, 1), add.s(2, 2)], total.s())``.

    ``chord(header)(body)`` sends one; ``group(...) | body`` makes one, too. All workers that take part need a result
    store that can count results (Redis, SQLite).
    """

    subtask_type = "chord"
    _members: ClassVar[str] = "header"

    def __init__(self, header: Any, body: Any = None, *, app: Any = None, **options: Any) -> None:
        """`header` is a group, or an iterable of signatures; `body` a signature."""
        if isinstance(header, group):
            spread_one = spreading(header)
            tasks = read_or_unread(header._unread() or header.tasks, lambda task: copied(spread_one(task)))
            app = app or header._app
        else:
            tasks = read_or_unread(members((header,), "chord"), copied)
        made = None if body is None else copied(body)
        super().__init__("celery.chord", (), {"header": tasks, "body": made, "kwargs": {}}, options, app=app)

    @property
    def body(self) -> Signature[Any] | None:
        """The signature that gets the results."""
        found = self.kwargs.get("body")
        return Signature.from_dict(found, self._app) if found else None

    def _with(self, header: Any, body: Any) -> None:
        self["kwargs"] = {**self.kwargs, "header": header, "body": body}

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature[R]:
        """Return a copy; `args` go to each task of the header. ``kwargs={"body": …}`` replaces the body."""
        made = cast("chord[R]", super().clone((), None, **options))
        named = dict(kwargs or {})
        body = named.pop("body", None) or self.kwargs.get("body")
        given, named = ((), {}) if self.immutable else ((*args, *self.args), named)
        made["args"] = ()
        made._with(self._cloned(given, named), Signature.from_dict(body, self._app).clone() if body else None)
        return made

    def __or__(self, other: Any) -> Any:
        if isinstance(other, dict):
            made = cast("chord[Any]", self.clone())
            following = copied(other, self._app)
            made._with(made.kwargs["header"], following if made.body is None else made.body | following)
            return made
        return refuse_task(other)

    def link(self, callback: Signature[Any]) -> Signature[Any]:
        """Add `callback`, which is sent with the result of the body; return it."""
        return self._owned_body().link(callback)

    def link_error(self, errback: Signature[Any]) -> Signature[Any]:
        """Add `errback`, which is called when the body fails, also because of a task of the header; return it.

        With the setting `allow_error_cb_on_chord_header`, each task of the header that fails calls it, too.
        """
        self._owned_body().link_error(errback)
        if self.app.conf.settings.task.allow_error_cb_on_chord_header:
            tasks = self.tasks
            for task in tasks:
                task.link_error(errback)
            self._with(tasks, self.body)
        return errback

    def _owned_body(self) -> Signature[Any]:
        body = self.body
        if body is None:
            raise FrameworkError("a chord needs a body: chord(header, body), or chord(header)(body)")
        self._with(self.kwargs["header"], body)
        return body

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult[R]:
        """Assign ids to all tasks; return the result of the body, whose parent is that of the header."""
        body, result, group_id = self._freeze_body(task_id, options)
        header: group[Any] = group(*_members(self.tasks), app=self._app)
        set_parent(result, header.freeze(group_id))
        for task in header.tasks:
            # Set only when the header is sent: Celery's workers may give it another id, but keep those of its tasks.
            task.options.pop("group_id", None)
        self._with(header, body)
        self.options["task_id"] = header.id
        return result

    def _freeze_body(
        self, task_id: str | None, options: Mapping[str, Any]
    ) -> tuple[Signature[Any], AsyncResult[R], str]:
        """Return a copy of the body with ids, its result, and the id for the header."""
        body = self._owned_body().clone()
        # Of a frozen chord, this is the id of the header, as in Celery; of any other, the id for the body.
        group_id = self.options.get("task_id")
        if not frozen_tasks(body):
            task_id, group_id = task_id or group_id, None
        result = body.freeze(task_id, **{name: value for name, value in options.items() if value is not None})
        return body, result, group_id or new_id()

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the header; return the result of the body.

        `options` apply to all tasks, except those about the result (`link`, `task_id`, …), for the body only, and
        `countdown` and `eta`, for the header only. Raises `ConfigError` if the result store cannot count chords.
        """
        work = cast("chord[R]", self.clone(args, kwargs))
        app = work.app
        if app.conf.settings.task.always_eager:
            return cast("AsyncResult[R]", self.apply(args, kwargs, **options))
        work._owned_body()
        require_chords(app)
        # Celery's workers take a None in the body's options for a value.
        options = {name: value for name, value in options.items() if value is not None}
        own = {**still_valid(work.options, options), **options}
        to_parent = own.pop("add_to_parent", True)
        for errback in listed(own.pop("link_error", None)):
            work.link_error(errback)
        of_the_body = {name: own.pop(name) for name in OF_THE_RESULT if name in own}
        body = work._owned_body()
        for callback in listed(of_the_body.pop("link", None)):
            body.link(callback)
        # Options of this call override those of the body, which override those of the chord.
        apart = ("task_id", "parent_id", *_OF_THE_HEADER)
        common = {name: value for name, value in own.items() if name not in apart}
        called = {name: value for name, value in common.items() if name in options}
        body["options"] = {**common, **body.options, **called, **of_the_body}
        work.options.pop("task_id", None)
        if "task_id" in own:
            work.options["task_id"] = own.pop("task_id")
        place = {name: of_the_body.get(name) for name in ("group_id", "group_index", "chord")}
        unread = work._unread()
        if unread is None:
            result = work.freeze(options.get("task_id"), **place)
            _count_among(work._owned_body(), str(work.options["task_id"]))
            work._send(own)
        else:
            result = work._send_unread(unread, options.get("task_id"), place, own)
        parent = parent_request()
        if parent is not None and to_parent:
            parent.add_child(_sent(result))
        return result

    def _send(self, options: Mapping[str, Any]) -> None:
        header = cast("group[Any]", Signature.from_dict(self.kwargs["header"], self._app))
        body = self._owned_body()
        size = len(header.tasks)
        if not size:
            body.apply_async(([],), add_to_parent=False)
            return
        header.freeze(header.id, chord=body)
        self.app.result_store.begin_chord(str(header.id), size)
        send_all(self.app, header.tasks, options)

    def _send_unread(
        self, unread: Unread, task_id: str | None, place: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult[R]:
        """Send the header as it is read; return the result of the body."""
        body, result, group_id = self._freeze_body(task_id, place)
        _count_among(body, group_id)
        members = (one for task in unread.take() for one in _members([task]))
        store = self.app.result_store
        # Parts that return before their number is known are kept. The last tasks are sent when it is.
        store.grow_chord(group_id, 0)
        header = send_unread(self.app, members, group_id, options, body, partial(store.begin_chord, group_id))
        if not header.results:
            body.apply_async(([],), add_to_parent=False)
        set_parent(result, header)
        return result

    def apply(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run header and body in this process."""
        work = cast("chord[R]", self.clone(args, kwargs, **options))
        own = dict(work.options)
        for errback in listed(own.pop("link_error", None)):
            work.link_error(errback)
        body = work._owned_body()
        for callback in listed(own.pop("link", None)):
            append_option(body.options, "link", callback)
        task_id = own.pop("task_id", None)
        ident = {"task_id": task_id} if task_id else {}
        quiet = {**own, "throw": False}
        header = GroupResult(new_id(), [task.apply(**quiet) for task in _members(work.tasks)], app=work.app)
        result: Any
        try:
            values = _results(header)
        except ChordError as error:
            if own.get("throw") or (own.get("throw") is None and work.app.conf.settings.task.eager_propagates):
                raise
            result = _failed(body, error, task_id)
        else:
            result = body.apply((values,), **own, **ident)
        set_parent(result, header)
        return cast("EagerResult[R]", result)

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send the chord, with `body` if given; return the result of the body."""
        return self.apply_async((), None if body is None else {"body": body}, **options)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.tasks))}] | {self.body!r}"


def _results(header: Iterable[Any]) -> list[Any]:
    """Return the values of an eager header. Raises `ChordError`."""
    values = []
    for result in header:
        if result.failed():
            raise ChordError(f"Dependency {result.id} raised {result.result!r}") from result.result
        values.append(result.get())
    return values


def _failed(body: Signature[Any], error: BaseException, task_id: str | None) -> Any:
    """Return the result of a body that fails with `error` in this process, after calling its error callbacks."""
    app = body.app
    results: list[Any] = []
    for part, errbacks in failing_parts(body):
        shown = error if part is body else error.__cause__ or error
        own_id, name = (part.get("options") or {}).get("task_id"), part["task"]
        part_id = (task_id if part is body else None) or own_id or new_id()
        results.append(EagerResult(part_id, shown, "FAILURE", app=app, task_name=name))
        request = Context(
            {"id": part_id, "task": name}, [], {}, {"errbacks": errbacks},
            app=app, called_directly=False, is_eager=True,
        )  # fmt: skip
        call_errbacks(app, request, shown, None)
    return GroupResult(task_id or new_id(), results, app=app) if isinstance(body, group) else results[0]


def _sent(result: Any) -> Any:
    """Return the result of the first part of a chord that is sent: its header, or the body if that is empty."""
    top = result
    while top.parent is not None:
        top = top.parent
    return top if top.children else result


def _count_among(body: Signature[Any], group_id: str) -> None:
    """Set the group id of the task that gives the result of `body` to the header's, as Celery does, if it has none."""
    if isinstance(body, chain):
        tasks = body.tasks
        _count_among(tasks[-1], group_id)
        body["kwargs"] = {"tasks": tasks}
    elif isinstance(body, chord):
        _count_among(body._owned_body(), group_id)
    elif not isinstance(body, group):
        body.options.setdefault("group_id", group_id)


def _members(tasks: Iterable[Signature[Any]]) -> list[Signature[Any]]:
    """Return the tasks of a header, each with exactly one result, without empty chains and groups."""
    found: list[Signature[Any]] = []
    for task in itertools.filterfalse(is_empty, tasks):
        found.extend(_members(spread(task)) if isinstance(task, group) else [one_result(task)])
    return found


def one_result(task: Signature[Any], **place: Any) -> Signature[Any]:
    """Return `task`, with a last part that has several results replaced by a chord that collects them in a list.

    `place`: options for the address of the collecting task.
    """
    if isinstance(task, group):
        return collected(task, **place)
    if isinstance(task, chain):
        *before, last = task.tasks
        single = one_result(last, **place)
        if single is not last:
            task["kwargs"] = {"tasks": [*before, single]}
    elif isinstance(task, chord) and task.body is not None:
        body = task.body
        single = one_result(body, **place)
        if single is not body:
            task._with(task.kwargs["header"], single)
    return task


def collected(tasks: group[Any], **options: Any) -> chord[Any]:
    """Return a chord of `tasks` whose result is the list of their results."""
    collect: Signature[Any] = Signature("celery.accumulate", (), {"index": 0}, app=tasks._app)
    collect.set(**{**still_valid(_place_of(tasks), options), **options})
    return chord(tasks, collect)


def _place_of(tasks: group[Any]) -> dict[str, Any]:
    """Return the address options of the first of `tasks`: some worker consumes from its queue."""
    for task in tasks.tasks:
        if isinstance(task, Several):
            continue
        place = {name: task.options[name] for name in _PLACE if task.options.get(name) is not None}
        if not place and (queue := getattr(task.type, "queue", None)) is not None:
            place = {"queue": queue}
        return place
    return {}


KINDS["chord"] = chord
