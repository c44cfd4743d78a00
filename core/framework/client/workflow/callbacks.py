"""Sends the callbacks and the next task of the chain after a task has succeeded, in the process that ran it.

This happens before the result is stored, so an exception makes the task fail.

Source: task protocol 2, embed, as published by Celery 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from framework.client.canvas import Signature, group
from framework.client.canvas.signatures import is_empty
from framework.client.results import GroupResult
from framework.wire.identity import new_id

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.request import Context


def follow_ups(app: App, request: Context, retval: Any) -> Iterator[Callable[[], object]]:
    """Yield functions that send the callbacks of `request` and the next task of its chain, with `retval`.

    They raise `TransportError`, and errors of the serializer.
    """
    options = _lineage(app, request)
    callbacks = [Signature.from_dict(callback, app) for callback in request.callbacks or ()]
    callbacks = [callback for callback in callbacks if not is_empty(callback)]
    plain = [callback for callback in callbacks if not isinstance(callback, group)]
    for callback in callbacks:
        if isinstance(callback, group) or len(plain) == 1:
            yield partial(callback.apply_async, (retval,), **options)
    if len(plain) > 1:
        group_id = new_id()
        sent: list[Any] = []
        for index, callback in enumerate(plain):
            place = {**options, "group_id": group_id, "group_index": index, "add_to_parent": False}
            yield partial(_send_into, sent, callback, retval, place)
        request.add_child(GroupResult(group_id, sent, app=app))
    chain = list(request.chain or ())
    if chain:
        following = Signature.from_dict(chain.pop(), app)
        yield partial(following.apply_async, (retval,), chain=chain or None, **options)


def _send_into(sent: list[Any], callback: Signature[Any], retval: Any, options: dict[str, Any]) -> None:
    sent.append(callback.apply_async((retval,), **options))


def _lineage(app: App, request: Context) -> dict[str, Any]:
    options: dict[str, Any] = {"root_id": request.root_id or request.id, "parent_id": request.id}
    if app.conf.settings.task.inherit_parent_priority:
        options["priority"] = request.delivery_info["priority"]
    return options
