"""The formats of tasks and queues in replies. Source: the replies of Celery 5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework.api.transport import Peeked, Queue
from framework.exceptions import MessageError, TransportError
from framework.message import Payload, read, read_head
from framework.wire.serialization import decode_task
from framework.worker.dispatch.eta import timestamp
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState


#: The most parked tasks that a reply lists.
PARKED_MAX: Final = 1_000


def reserved_requests(state: ControlState) -> list[TaskRequest]:
    waiting = [*state.intake.rates, *state.intake.backlog]
    return [*waiting, *(request for request in state.settle.running.values() if not request.started)]


def task_info(state: ControlState, request: TaskRequest, safe: bool = False) -> dict[str, Any]:
    info = message_info(state, request.delivery.payload, safe)
    info["delivery_info"]["redelivered"] |= bool(request.delivery.deliveries)
    return info | {
        "id": request.task_id,
        "name": request.head.headers.shadow or request.name,
        "type": request.name,
        "time_start": request.started or None,
        "acknowledged": request.acknowledged,
        "worker_pid": request.pid or None,
    }


def parked_tasks(state: ControlState) -> list[dict[str, Any]]:
    """Return the tasks that are parked for the worker's queues, the nearest first, and an entry about the others."""
    transport, queues = state.transport, list(state.queues)
    if not transport.traits.parks:
        return []
    peeked: list[Peeked] = []
    try:
        counts = {name: count for name, count in transport.parked(queues).items() if count}
        for queue in queues:
            if counts.get(queue.name):
                peeked += transport.peek(queue, PARKED_MAX, parked=True) or ()
    except TransportError as error:
        return [_note(state, f"the parked tasks cannot be read: {error}")]
    nearest = sorted(peeked, key=lambda each: each.due or 0.0)[:PARKED_MAX]
    # A message far ahead comes due several times before its eta, for revokes.
    found = sorted((*_eta(each), number, each) for number, each in enumerate(nearest))
    shown = [
        {"eta": eta, "priority": 6, "request": message_info(state, each.payload)} for _when, eta, _number, each in found
    ]
    more = sum(counts.values()) - len(shown)
    if more > 0:
        shown.append(_note(state, f"{more} more tasks are parked in the broker: {', '.join(sorted(counts))}"))
    return shown


def _eta(peeked: Peeked) -> tuple[float, str]:
    """Return the eta of a parked message, as a number and as it is written."""
    try:
        eta = read_head(peeked.payload).headers.eta or ""
        return timestamp(eta, "eta"), eta
    except MessageError:
        return peeked.due or 0.0, ""


def _note(state: ControlState, text: str) -> dict[str, Any]:
    """Return an entry that has the text as its task's name: monitors show it like the others."""
    info = message_info(state, b"{}")
    return {"eta": None, "priority": 6, "request": {**info, "name": text}}


def message_info(state: ControlState, payload: Payload, safe: bool = False) -> dict[str, Any]:
    """Return the format of a task that has not started, from its message."""
    args: Any = None
    kwargs: Any = None
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    try:
        incoming = read(payload)
        headers, properties = incoming.headers, incoming.properties
        if not safe:
            args, kwargs, _embed = decode_task(incoming, accept=state.settings.accept_content)
    except MessageError:
        safe = True  # an unreadable message is still shown, with the sender's reprs
    if safe:
        args, kwargs = headers.get("argsrepr"), headers.get("kwargsrepr")
    info = properties.get("delivery_info") or {}
    return {
        "id": headers.get("id"),
        "name": headers.get("shadow") or headers.get("task"),
        "args": args,
        "kwargs": kwargs,
        "type": headers.get("task"),
        "hostname": state.hostname,
        "time_start": None,
        "acknowledged": False,
        "delivery_info": {
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": bool(info.get("redelivered")),
        },
        "worker_pid": None,
    }


def queue_info(queue: Queue) -> dict[str, Any]:
    info: dict[str, Any] = msgspec.to_builtins(queue)
    info["exchange"] = {**info["exchange"], "passive": False, "no_declare": False}
    return {**info, "bindings": [], "no_declare": None}
