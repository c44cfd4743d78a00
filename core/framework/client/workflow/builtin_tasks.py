"""The tasks that every worker has: parts of workflows, with Celery's names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from framework.client import canvas
from framework.client.canvas import Signature
from framework.client.results import GroupResult, result_from_tuple
from framework.client.workflow import chord_counting
from framework.exceptions import ChordError, FrameworkError

if TYPE_CHECKING:
    from framework.client.app import App


def accumulate(self: Any, *args: Any, index: int | None = None, **_more: Any) -> Any:
    """Return its arguments or one of them: the body of a chord that collects the results of a group."""
    return list(args) if index is None else args[index]


def xmap(self: Any, task: Any, it: Sequence[Any]) -> list[Any]:
    """Call the function of a task with each item."""
    run = _called(self.app, task)
    return [run(item) for item in it]


def xstarmap(self: Any, task: Any, it: Sequence[Sequence[Any]]) -> list[Any]:
    """Call the function of a task with each item unpacked."""
    run = _called(self.app, task)
    return [run(*item) for item in it]


def chunks(self: Any, task: Any, it: Sequence[Sequence[Any]], n: int) -> list[Any]:
    """As `xstarmap`, with the results in lists of `n`."""
    run = _called(self.app, task)
    return [[run(*item) for item in it[start : start + n]] for start in range(0, len(it), n)]


def _called(app: App, document: Any) -> Any:
    """Return a function that calls that of the task in `document`, and runs a coroutine to its end."""
    task = app.tasks[document["task"] if isinstance(document, Mapping) else document]

    def call(*args: Any) -> Any:
        value = task(*args)
        if inspect.iscoroutine(value):
            from framework.client.coroutines import run_here  # here: it imports asyncio

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
    """Send the body of a chord after all results of its header are stored, for clients whose store cannot count."""
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
    """Send the tasks of a group, for old clients."""
    for document in tasks:
        Signature.from_dict(document, self.app).clone(partial_args).apply_async(group_id=group_id, add_to_parent=False)
    return result_from_tuple(result, self.app)


def chord(self: Any, header: Any, body: Any, partial_args: Any = (), *_more: Any, **_options: Any) -> Any:
    """Send a chord, for old clients."""
    tasks = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
    made: Any = canvas.chord(
        [Signature.from_dict(task, self.app) for task in tasks], Signature.from_dict(body, self.app)
    )
    return made.apply_async(partial_args)


def chain(self: Any, *_args: Any, **_kwargs: Any) -> None:
    """Raise `FrameworkError`: the message of the first task carries a chain, not a task `celery.chain`."""
    raise FrameworkError("celery.chain cannot run as a task: send the chain itself")


def backend_cleanup(self: Any) -> None:
    """Do nothing: result stores drop expired results themselves."""


#: The tasks: name, function that gets the task as its first argument, options.
BUILT_IN: Final[Sequence[tuple[str, Any, dict[str, Any]]]] = (
    ("celery.accumulate", accumulate, {}),
    ("celery.map", xmap, {}),
    ("celery.starmap", xstarmap, {}),
    ("celery.chunks", chunks, {}),
    ("celery.chord_unlock", chord_unlock, {"max_retries": None, "ignore_result": True}),
    ("celery.group", group, {}),
    ("celery.chord", chord, {}),
    ("celery.chain", chain, {}),
    ("celery.backend_cleanup", backend_cleanup, {"ignore_result": True}),
)
