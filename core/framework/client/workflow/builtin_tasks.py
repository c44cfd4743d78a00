"""The tasks that every worker has: parts of workflows, under the names that Celery's clients and workers use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from framework.client.registry import make_task
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.task import Task


def make_builtins(app: App) -> Iterator[Task[..., Any]]:
    """Return the built-in tasks of `app`."""
    for name, function, options in _BUILT_IN:
        yield make_task(app, function, {"name": f"celery.{name}", "bind": True, "typing": False, **options})


def accumulate(self: Any, *args: Any, index: int | None = None, **_more: Any) -> Any:
    """Return its arguments, or one of them: the end of a group whose results are wanted as one."""
    return list(args) if index is None else args[index]


def xmap(self: Any, task: Any, it: Sequence[Any]) -> list[Any]:
    """Call a task with each item, as a function."""
    run = _called(self.app, task)
    return [run(item) for item in it]


def xstarmap(self: Any, task: Any, it: Sequence[Sequence[Any]]) -> list[Any]:
    """Call a task with each item taken apart, as a function."""
    run = _called(self.app, task)
    return [run(*item) for item in it]


def chunks(self: Any, task: Any, it: Sequence[Sequence[Any]], n: int) -> list[Any]:
    """As `xstarmap`, with the results in lists of `n`."""
    run = _called(self.app, task)
    return [[run(*item) for item in it[start : start + n]] for start in range(0, len(it), n)]


def _called(app: App, document: Any) -> Any:
    """Return what calls the task of `document` as a function. A coroutine is run to its end."""
    import inspect

    task = app.tasks[document["task"] if isinstance(document, Mapping) else document]

    def call(*args: Any) -> Any:
        value = task(*args)
        if inspect.iscoroutine(value):
            from framework.client.coroutines import run_here

            return run_here(value)
        return value

    return call


def chord_unlock(
    self: Any,
    group_id: str,
    callback: Any,
    interval: float | None = None,
    max_retries: int | None = None,
    result: Any = None,
    **_more: Any,
) -> None:
    """Send the body of a chord once all results of its header are stored: sent by clients whose store cannot count."""
    from framework.client.canvas import Signature
    from framework.client.results import GroupResult, result_from_tuple
    from framework.client.workflow import chord_counting
    from framework.exceptions import ChordError

    app = self.app
    header = GroupResult(group_id, [result_from_tuple(one, app) for one in result or ()], app=app)
    if not header.ready():
        pause = app.conf.settings.result.chord_retry_interval if interval is None else interval
        raise self.retry(countdown=pause, max_retries=max_retries)
    body = Signature.from_dict(callback, app)
    try:
        values = header.get(disable_sync_subtasks=False)
    except Exception as error:  # noqa: BLE001 - whatever a task of the header raised
        chord_counting.fail(app, body, ChordError(f"Dependency of {group_id} raised {error!r}"), self.request.root_id)
    else:
        body.apply_async((values,))


def group(self: Any, tasks: Any, result: Any, group_id: str, partial_args: Any, add_to_parent: bool = True) -> Any:
    """Send the tasks of a group: sent by old clients."""
    from framework.client.canvas import Signature
    from framework.client.results import result_from_tuple

    for document in tasks:
        Signature.from_dict(document, self.app).clone(partial_args).apply_async(group_id=group_id, add_to_parent=False)
    return result_from_tuple(result, self.app)


def chord(self: Any, header: Any, body: Any, partial_args: Any = (), *_more: Any, **_options: Any) -> Any:
    """Send a chord: sent by old clients."""
    from framework.client.canvas import Signature
    from framework.client.canvas import chord as make

    tasks = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
    made: Any = make([Signature.from_dict(task, self.app) for task in tasks], Signature.from_dict(body, self.app))
    return made.apply_async(partial_args)


def chain(self: Any, *_args: Any, **_kwargs: Any) -> None:
    """Raise `FrameworkError`: a chain travels in the message of its first task, not as a task."""
    raise FrameworkError("celery.chain is not a task that runs: send the chain itself")


def backend_cleanup(self: Any) -> None:
    """Do nothing: result stores drop by themselves what has expired."""


_BUILT_IN: Sequence[tuple[str, Any, dict[str, Any]]] = (
    ("accumulate", accumulate, {}),
    ("map", xmap, {}),
    ("starmap", xstarmap, {}),
    ("chunks", chunks, {}),
    ("chord_unlock", chord_unlock, {"max_retries": None, "ignore_result": True}),
    ("group", group, {}),
    ("chord", chord, {}),
    ("chain", chain, {}),
    ("backend_cleanup", backend_cleanup, {"ignore_result": True}),
)
