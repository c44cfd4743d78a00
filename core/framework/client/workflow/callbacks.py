"""Sends the callbacks and the next task of the chain after a task has succeeded, in the process that ran it.

This happens before the result is stored, so an exception makes the task fail.

Source: task protocol 2, embed, as published by Celery 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framework.client.canvas import Signature, group
from framework.client.results import GroupResult
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.request import Context


def follow_up(app: App, request: Context, retval: Any) -> None:
    """Send the callbacks of `request` and the next task of its chain, if any."""
    if request.callbacks:
        send_callbacks(app, request, retval)
    if request.chain:
        send_chain(app, request, retval)


def send_callbacks(app: App, request: Context, retval: Any) -> None:
    """Send the callbacks of `request` with `retval`. Raises `TransportError`, and errors of the serializer."""
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
    chain = list(request.chain or ())
    if chain:
        following = Signature.from_dict(chain.pop(), app)
        following.apply_async((retval,), chain=chain or None, **_lineage(app, request))


def _lineage(app: App, request: Context) -> dict[str, Any]:
    options: dict[str, Any] = {"root_id": request.root_id or request.id, "parent_id": request.id}
    if app.conf.settings.task.inherit_parent_priority:
        options["priority"] = request.delivery_info["priority"]
    return options
