"""Error callbacks: called in this process if the task is registered and takes more than the id, else sent as tasks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from framework.client.canvas.signatures import Signature
from framework.client.request import pop_request, push_request
from framework.client.results import AsyncResult, GroupResult
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.request import Context

logger = logging.getLogger(__name__)


def call_errbacks(app: App, request: Context, exc: BaseException, tb: Any) -> None:
    """Call or send the error callbacks of `request`; log an exception of one. Raises `TransportError`."""
    for call in errback_calls(app, request, exc, tb):
        call()


def errback_calls(app: App, request: Context, exc: BaseException, tb: Any) -> list[Callable[[], object]]:
    """Return a function for each error callback of `request` that calls or sends it, as `call_errbacks` does.

    Those that are sent become children of `request`.
    """
    local: list[Callable[[], object]] = []
    to_send: list[Callable[[], object]] = []
    options: dict[str, Any] = {"root_id": request.root_id or request.id, "parent_id": request.id}
    group_id = new_id()
    children: list[Any] = []
    for document in request.errbacks or ():
        errback = Signature.from_dict(document, app)
        task = errback.type
        if task is not None and _is_called_here(task, errback):
            local.append(partial(_call_here, task, errback, request, exc, tb))
        elif request.is_eager:
            to_send.append(partial(errback.apply, (request.id,)))
        else:
            task_id = errback.options.get("task_id") or new_id()
            place: dict[str, Any] = {"task_id": task_id, "group_id": group_id, "group_index": len(to_send)}
            to_send.append(partial(errback.apply_async, (request.id,), **options, **place))
            children.append(AsyncResult(task_id, app=app, task_name=errback.task))
    if children:
        request.add_child(GroupResult(group_id, children, app=app))
    return local + to_send


def _call_here(task: Any, errback: Signature[Any], request: Context, exc: BaseException, tb: Any) -> None:
    token = push_request(None)
    try:
        given = () if errback.immutable else (request, exc, tb)
        task.run(*given, *errback.args, **errback.kwargs)
    except Exception:  # the task-execution wall: an errback must not hide the failure of its task
        logger.exception("The error callback %s of task %s[%s] failed", errback.task, request.task, request.id)
    finally:
        pop_request(token)


def _is_called_here(task: Any, errback: Signature[Any]) -> bool:
    """Return whether `errback` gets request, error and traceback: its function takes them before its own arguments.

    A bound function is sent as a task, so that it has a request and can retry, unless it cannot be called with the id.
    """
    if errback.get("subtask_type"):
        return False
    function = inspect.signature(task.run)
    is_bound = not isinstance(inspect.getattr_static(type(task), "run"), staticmethod)
    if errback.immutable:
        kinds = [parameter.kind for parameter in function.parameters.values()]
        positional = sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
        return not is_bound and (positional > 1 or Parameter.VAR_POSITIONAL in kinds)

    def takes(count: int) -> bool:
        try:
            function.bind(*(None,) * count, *errback.args, **errback.kwargs)
        except TypeError:
            return False
        return True

    return not takes(1) or (not is_bound and takes(3))
