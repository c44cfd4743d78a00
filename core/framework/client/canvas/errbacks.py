"""Error callbacks: called in this process if the task is registered and takes more than the id, else sent."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from framework.client.canvas.signatures import Signature
from framework.client.request import pop_request, push_request
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
    """Return a function for each error callback of `request` that calls or sends it, as `call_errbacks` does."""
    local: list[Callable[[], object]] = []
    to_send: list[Callable[[], object]] = []
    options: dict[str, Any] = {"root_id": request.root_id or request.id, "parent_id": request.id}
    group_id = new_id()
    for document in request.errbacks or ():
        errback = Signature.from_dict(document, app)
        task = errback.type
        if task is not None and _takes_more_than_an_id(task, errback):
            local.append(partial(_call_here, task, errback, request, exc, tb))
        elif request.is_eager:
            to_send.append(partial(errback.apply, (request.id,)))
        else:
            place: dict[str, Any] = {"group_id": group_id, "group_index": len(to_send)}
            to_send.append(partial(errback.apply_async, (request.id,), **options, **place))
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


def _takes_more_than_an_id(task: Any, errback: Mapping[str, Any]) -> bool:
    """Return whether the function of `task` can be called with request, error and traceback."""
    if errback.get("subtask_type"):
        return False
    count = 0
    for parameter in inspect.signature(task.run).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return True
        count += parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return count > 1
