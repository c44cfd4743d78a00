"""What a task's message asks to be done after the task, for whoever ran it.

1. `send_callbacks` and `send_chain` after a success, before its result is stored; what they raise makes the task
   fail.
2. `call_errbacks` after a failure: called here if the task is known and takes more than the id, else sent.
3. `fail_rest`: the rest of a chain that will never run has this failure as its result.

Source: task protocol 2, embed, as published by Celery 5.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from framework.client.request import pop_request, push_request
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.request import Context

logger = logging.getLogger(__name__)


def follow_up(app: App, request: Context, retval: Any) -> None:
    """Send callbacks and the next task of the chain, if the message asks for any."""
    if request.callbacks:
        send_callbacks(app, request, retval)
    if request.chain:
        send_chain(app, request, retval)


def send_callbacks(app: App, request: Context, retval: Any) -> None:
    """Send the callbacks of `request` with `retval`. Raises `TransportError`, and what encoding `retval` raises."""
    from framework.client.canvas import Signature, group
    from framework.client.results import GroupResult

    callbacks = [Signature.from_dict(callback, app) for callback in request.callbacks or ()]
    options = _lineage(app, request)
    plain = [callback for callback in callbacks if not isinstance(callback, group)]
    for callback in callbacks:
        if isinstance(callback, group) or len(plain) == 1:
            callback.apply_async((retval,), **options)
    if len(plain) > 1:
        group_id = new_id()
        sent = [
            callback.apply_async((retval,), **options, group_id=group_id, group_index=index, add_to_parent=False)
            for index, callback in enumerate(plain)
        ]
        request.add_child(GroupResult(group_id, sent, app=app))


def send_chain(app: App, request: Context, retval: Any) -> None:
    """Send the next task of the chain of `request` with `retval`. Raises as `send_callbacks`."""
    from framework.client.canvas import Signature

    chain = list(request.chain or ())
    if chain:
        following = Signature.from_dict(chain.pop(), app)
        following.apply_async((retval,), chain=chain or None, **_lineage(app, request))


def _lineage(app: App, request: Context) -> dict[str, Any]:
    options: dict[str, Any] = {"root_id": request.root_id or request.id, "parent_id": request.id}
    if app.conf.settings.task.inherit_parent_priority:
        options["priority"] = request.delivery_info["priority"]
    return options


def call_errbacks(app: App, request: Context, exc: BaseException, tb: Any) -> None:
    """Call or send the error callbacks of `request`. Raises `TransportError`; what an errback raises is logged."""
    from framework.client.canvas import Signature

    to_send = []
    for document in request.errbacks or ():
        errback = Signature.from_dict(document, app)
        task = errback.type
        if task is None or not _takes_more_than_an_id(task, errback):
            to_send.append(errback)
            continue
        token = push_request(None)
        try:
            given = () if errback.immutable else (request, exc, tb)
            task.run(*given, *errback.args, **errback.kwargs)
        except Exception:  # the task-execution wall: an errback must not hide the failure it is about
            logger.exception("The error callback %s of task %s[%s] failed", errback.task, request.task, request.id)
        finally:
            pop_request(token)
    options: dict[str, Any] = {"root_id": request.root_id or request.id, "parent_id": request.id}
    group_id = new_id()
    for index, errback in enumerate(to_send):
        if request.is_eager:
            errback.apply((request.id,))
        else:
            errback.apply_async((request.id,), **options, group_id=group_id, group_index=index)


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


def fail_rest(app: App, request: Context, error: BaseException, trace: str | None = None) -> None:
    """Store `error` for the tasks of the chain of `request`, which will not run, next first; tell their chords."""
    if request.chain:
        from framework.client.workflow import chord_counting

        for element in reversed(request.chain):
            chord_counting.fail_all(app, chord_counting.doomed(element), error, trace)
