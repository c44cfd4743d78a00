"""The formats of tasks and queues in replies. Source: the replies of Celery 5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from framework.api.transport import Queue
from framework.exceptions import MessageError
from framework.message import read
from framework.wire.serialization import decode_task
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState


def reserved_requests(state: ControlState) -> list[TaskRequest]:
    waiting = [*state.intake.rates, *state.intake.backlog]
    return [*waiting, *(request for request in state.settle.running.values() if not request.started)]


def task_info(state: ControlState, request: TaskRequest, safe: bool = False) -> dict[str, Any]:
    args: Any = None
    kwargs: Any = None
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    try:
        incoming = read(request.delivery.payload)
        headers, properties = incoming.headers, incoming.properties
        if not safe:
            args, kwargs, _embed = decode_task(incoming, accept=state.settings.accept_content)
    except MessageError:
        safe = True  # an unreadable message is still shown, with the sender's reprs
    if safe:
        args, kwargs = headers.get("argsrepr"), headers.get("kwargsrepr")
    info = properties.get("delivery_info") or {}
    return {
        "id": request.task_id,
        "name": request.head.headers.shadow or request.name,
        "args": args,
        "kwargs": kwargs,
        "type": request.name,
        "hostname": state.hostname,
        "time_start": request.started or None,
        "acknowledged": request.acknowledged,
        "delivery_info": {
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": bool(request.delivery.deliveries or info.get("redelivered")),
        },
        "worker_pid": request.pid or None,
    }


def queue_info(queue: Queue) -> dict[str, Any]:
    info: dict[str, Any] = msgspec.to_builtins(queue)
    info["exchange"] = {**info["exchange"], "passive": False, "no_declare": False}
    return {**info, "bindings": [], "no_declare": None}
