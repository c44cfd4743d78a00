"""Eager runs: a task in the caller's thread, with retries and callbacks, without a broker.

With the setting `always_eager`, arguments and return value pass through their serializers, as they would on the way to
a worker and back: what cannot be sent fails here too, and a tuple arrives as a list.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from framework.api.result_store import Record
from framework.client.canvas import Signature
from framework.client.canvas.documents import listed
from framework.client.canvas.errbacks import call_errbacks
from framework.client.coroutines import run_here
from framework.client.request import Context, current_request, pop_request, push_request
from framework.client.results import EagerResult
from framework.client.task import called_by_message, retry_without_message
from framework.client.task_policy import annotate
from framework.client.workflow.replacing import ReplacedHere
from framework.exceptions import Ignore, Reject, Retry
from framework.wire.exception_document import ExceptionInfo, decode_returned, encode_returned
from framework.wire.identity import new_id
from framework.wire.result_document import Documents
from framework.wire.serialization import decode, encode

if TYPE_CHECKING:
    from framework.client.task import Task

R = TypeVar("R")


def run_eagerly(
    task: Task[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> EagerResult[R]:
    """Run `task` now; options are those of `apply_async`, and `throw`: raise the task's exception."""
    settings = task.app.conf.settings
    annotate(task, settings.task.annotations)
    throw = options.get("throw")
    if throw is None:
        throw = settings.task.eager_propagates
    task_id = options.get("task_id") or new_id()
    retries = options.get("retries") or 0
    serializer = options.get("serializer") or task.serializer or settings.task.serializer
    while True:
        if settings.task.always_eager:
            args, kwargs = _decoded([args, kwargs], serializer, settings.accept_content)
        request = _request(task, task_id, retries, args, kwargs, options)
        state, value, text = _run(task, request, task_id, args, kwargs)
        if isinstance(value, ReplacedHere):
            return value.result
        if state == "RETRY" and isinstance(value, Retry) and value.sig is not None:
            args, kwargs, retries = value.sig.args, value.sig.kwargs, retries + 1
            continue
        break
    if throw and state in ("FAILURE", "RETRY") and isinstance(value, BaseException):
        raise value
    result: EagerResult[R] = EagerResult(
        task_id, value, state, text, app=task.app, task_name=task.name, children=request.children
    )
    _follow(task, request, state, value, text)
    if settings.task.store_eager_result:
        _store(task, result)
    return result


def _request(
    task: Task[..., Any],
    task_id: str,
    retries: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Mapping[str, Any],
) -> Context:
    """Return the request of one run, as a child of the running task."""
    parent = current_request()
    headers = {
        **(options.get("headers") or {}),
        "task": task.name,
        "id": task_id,
        "retries": retries,
        "root_id": task_id if parent is None else parent.root_id or parent.id or task_id,
        "parent_id": None if parent is None else parent.id,
        "group": options.get("group_id"),
        "group_index": options.get("group_index"),
    }
    embed = {"callbacks": listed(options.get("link")) or None, "errbacks": listed(options.get("link_error")) or None}
    properties = {"delivery_info": {"exchange": options.get("exchange"), "routing_key": options.get("routing_key")}}
    return Context(headers, list(args), kwargs, embed, properties, app=task.app, called_directly=False, is_eager=True)


def _run(
    task: Task[..., Any], request: Context, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, Any, str | None]:
    """Run the task once; return its state, its value and the traceback."""
    token = push_request(request)
    state: str
    value: Any
    stored: Any = None
    text: str | None = None
    try:
        try:
            task.before_start(task_id, args, kwargs)
            value, state = _call(task, args, kwargs), "SUCCESS"
            stored = _stored(task, value)
            task.on_success(value, task_id, args, kwargs)
        except Retry as error:
            value, state, text = error, "RETRY", traceback.format_exc()
            reason = error.exc or error
            task.on_retry(reason, task_id, args, kwargs, ExceptionInfo.of(reason, text))
        except ReplacedHere as error:
            value, state = error, "REPLACED"
            return state, value, None
        except Ignore as error:
            value, state = error, "IGNORED"
        except Reject as error:
            value, state = error, "REJECTED"
        except Exception as error:  # noqa: BLE001 - the task-execution wall
            value, state, text = error, "FAILURE", traceback.format_exc()
            task.on_failure(error, task_id, args, kwargs, ExceptionInfo.of(error, text))
        if state in ("SUCCESS", "FAILURE"):
            einfo = None if text is None else ExceptionInfo.of(value, text)
            task.after_return(state, value, task_id, args, kwargs, einfo)
    finally:
        pop_request(token)
    return state, stored if state == "SUCCESS" else value, text


def _call(task: Task[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    try:
        value: Any = called_by_message(task)(*args, **kwargs)
        return cast("R", run_here(value) if inspect.iscoroutine(value) else value)
    except Retry as error:
        if error.sig is None:
            raise retry_without_message(error) from error
        raise


def _decoded(value: Any, serializer: str, accept: Iterable[str] | None) -> Any:
    """Return `value` as a process would read it that it was sent to."""
    content_type, content_encoding, body, _mime = encode(value, serializer)
    return decode(body, content_type, content_encoding, accept=accept)


def _stored(task: Task[..., Any], value: Any) -> Any:
    """Return the return value `value` as a client would read it from a result store."""
    settings = task.app.conf.settings
    if not settings.task.always_eager or task.policy.ignore_result:
        return value
    serializer = settings.result.serializer
    if isinstance(value, BaseException):
        value = encode_returned(value, serializer)
    return decode_returned(_decoded(value, serializer, (serializer,)))


def _follow(task: Task[..., Any], request: Context, state: str, value: Any, text: str | None) -> None:
    if state == "SUCCESS":
        for callback in request.callbacks or ():
            Signature.from_dict(callback, task.app).apply((value,))
    elif state == "FAILURE":
        call_errbacks(task.app, request, value, text)


def _store(task: Task[..., Any], result: EagerResult[Any]) -> None:
    app = task.app
    store = app.result_store
    if store.traits.stores and result.state in ("SUCCESS", "FAILURE") and not task.policy.ignore_result:
        settings = app.conf.settings.result
        document = Documents(settings.serializer, settings.compression).build(
            result.state, result.result, result.id, traceback=result.traceback
        )
        store.store([Record(result.id, document, result.state)])
