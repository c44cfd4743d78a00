"""The built-in commands of the worker's panel, and the names that the guide imports.

A command gets the `ControlState`: what a worker lets be seen and changed from outside.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework.api.pool import Pool
from framework.api.transport import Queue, Transport
from framework.exceptions import FrameworkError, MessageError
from framework.message import read
from framework.serialization import decode_task
from framework.worker.clock import Clock
from framework.worker.intake import Intake
from framework.worker.item import Item
from framework.worker.panel import COMMANDS, Command, Panel, control_command, inspect_command
from framework.worker.prefetch import Prefetch
from framework.worker.revokes import Revokes
from framework.worker.settle import Settle

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.app import App

__all__ = ["COMMANDS", "Command", "ControlState", "Panel", "control_command", "inspect_command"]

logger = logging.getLogger(__name__)

_RUSAGE: Final = (
    "utime stime maxrss ixrss idrss isrss minflt majflt nswap inblock oublock msgsnd msgrcv nsignals nvcsw nivcsw"
)


class Qos:
    """The prefetch limit, as commands change it."""

    def __init__(self, prefetch: Prefetch, intake: Intake) -> None:
        self._prefetch = prefetch
        self._intake = intake

    @property
    def value(self) -> int:
        """The current limit."""
        return self._prefetch.limit

    def increment_eventually(self, n: int = 1) -> None:
        """Hold `n` messages more, from the next fetch on."""
        self._prefetch.extra += n
        self._intake.ask()

    def decrement_eventually(self, n: int = 1) -> None:
        """Hold `n` messages fewer; what is held stays."""
        self._prefetch.extra -= n
        self._intake.ask()


class ConsumerView(msgspec.Struct, kw_only=True):
    """`state.consumer`: the consumer as commands see it."""

    qos: Qos
    pool: Pool
    hostname: str


class ControlState(msgspec.Struct, kw_only=True):
    """What a command can see and change."""

    app: App
    hostname: str
    settings: Settings
    consumer: ConsumerView
    pool: Pool
    transport: Transport
    intake: Intake
    settle: Settle
    prefetch: Prefetch
    revokes: Revokes
    clock: Clock
    queues: Callable[[], Sequence[Queue]]
    #: Asks the worker to stop warmly.
    stop: Callable[[], object]
    started: float


# ---------------------------------------------------------------- inspect


@inspect_command(default_timeout=0.2)
def ping(state: ControlState) -> dict[str, str]:
    """Answer."""
    return {"ok": "pong"}


@inspect_command()
def clock(state: ControlState) -> dict[str, int]:
    """Tell the logical clock."""
    return {"clock": state.clock.value}


@inspect_command()
def hello(state: ControlState, from_node: str, revoked: Any = None) -> dict[str, Any] | None:
    """Exchange revoked ids and clocks with a worker that starts."""
    if from_node == state.hostname:
        return None
    if revoked:
        # A list since Celery 5.7, a mapping of ids before.
        state.revokes.add(str(task_id) for task_id in revoked)
    return {"revoked": state.revokes.list(), "clock": state.clock.forward()}


@inspect_command(alias="dump_tasks", signature="[ATTRIBUTE ...]", variadic="taskinfoitems")
def registered(state: ControlState, taskinfoitems: Sequence[str] | None = None, builtins: bool = False) -> list[str]:
    """List the names of the tasks that the worker knows."""
    wanted = list(taskinfoitems or ("exchange", "routing_key", "rate_limit"))
    lines = []
    for name, task in sorted(state.app.tasks.items()):
        if name.startswith("_") or (name.startswith("celery.") and not builtins):
            continue
        fields = [(key, getattr(task, key, None)) for key in wanted if not key.startswith("_")]
        info = " ".join(f"{key}={value}" for key, value in fields if value is not None)
        lines.append(f"{name} [{info}]" if info else name)
    return lines


@inspect_command(alias="dump_active", signature="[SAFE]")
def active(state: ControlState, safe: bool = False) -> list[dict[str, Any]]:
    """List the tasks that run now."""
    return [_task_info(state, item, safe) for item in state.settle.running.values() if item.started]


@inspect_command(alias="dump_reserved")
def reserved(state: ControlState) -> list[dict[str, Any]]:
    """List the tasks that were received and have not started."""
    return [_task_info(state, item) for item in _reserved(state)]


@inspect_command(alias="dump_schedule")
def scheduled(state: ControlState) -> list[dict[str, Any]]:
    """List the tasks that are held for their eta."""
    return [
        {"eta": item.head.headers.eta, "priority": 6, "request": _task_info(state, item)}
        for _when, item in sorted(state.intake.schedule, key=lambda entry: entry[0])
    ]


@inspect_command(alias="dump_revoked")
def revoked(state: ControlState) -> list[str]:
    """List the ids that were revoked."""
    return state.revokes.list()


@inspect_command(signature="ID ...", variadic="ids")
def query_task(state: ControlState, ids: str | Iterable[str]) -> dict[str, Any]:
    """Tell what this worker has of the tasks with these ids."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    running = state.settle.running.values()
    found: dict[str, Any] = {}
    for label, items in (
        ("scheduled", [item for _when, item in state.intake.schedule]),
        ("reserved", _reserved(state)),
        ("active", [item for item in running if item.started]),
    ):
        found.update({item.task_id: [label, _task_info(state, item)] for item in items if item.task_id in wanted})
    return found


@inspect_command()
def active_queues(state: ControlState) -> list[dict[str, Any]]:
    """List the queues that the worker consumes from."""
    return [_queue_info(queue) for queue in state.queues()]


@inspect_command(alias="dump_conf", signature="[WITH_DEFAULTS]")
def conf(state: ControlState, with_defaults: bool = False) -> dict[str, Any]:
    """Tell the settings, secrets masked."""
    from framework._config.show import masked

    return masked(state.app.conf, with_defaults)


@inspect_command()
def stats(state: ControlState) -> dict[str, Any]:
    """Tell what the worker has done and is made of."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "total": dict(state.settle.total),
        "pid": os.getpid(),
        "clock": str(state.clock.forward()),
        "uptime": int(time.monotonic() - state.started),
        "pool": state.pool.info(),
        "broker": state.transport.info(),
        "prefetch_count": state.prefetch.limit,
        "rusage": {name: getattr(usage, f"ru_{name}") for name in _RUSAGE.split()},
    }


# ---------------------------------------------------------------- control


@control_command(signature="ID ...", variadic="task_id")
def revoke(
    state: ControlState, task_id: str | Sequence[str], terminate: bool = False, signal: str | None = None
) -> dict[str, str]:
    """Have the tasks with these ids skipped. Running ones go on."""
    ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id]
    if terminate:
        raise FrameworkError(
            "terminating a running task is not available in this release; revoke without terminate works"
        )
    state.revokes.add(ids)
    logger.info("Tasks flagged as revoked: %s", ", ".join(ids))
    return {"ok": f"tasks {set(ids)} flagged as revoked"}


@control_command()
def shutdown(state: ControlState, msg: str = "Got shutdown from remote") -> dict[str, str]:
    """Stop the worker warmly."""
    logger.warning("%s", msg)
    state.stop()
    return {"ok": "shutting down"}


# ---------------------------------------------------------------- shapes


def _reserved(state: ControlState) -> list[Item]:
    return [*state.intake.backlog, *(item for item in state.settle.running.values() if not item.started)]


def _task_info(state: ControlState, item: Item, safe: bool = False) -> dict[str, Any]:
    args: Any = None
    kwargs: Any = None
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    try:
        incoming = read(item.delivery.payload)
        headers, properties = incoming.headers, incoming.properties
        if not safe:
            args, kwargs, _embed = decode_task(incoming, accept=state.settings.accept_content)
    except MessageError:
        safe = True  # shown all the same, as what the sender said of it
    if safe:
        args, kwargs = headers.get("argsrepr"), headers.get("kwargsrepr")
    info = properties.get("delivery_info") or {}
    return {
        "id": item.task_id,
        "name": item.head.headers.shadow or item.name,
        "args": args,
        "kwargs": kwargs,
        "type": item.name,
        "hostname": state.hostname,
        "time_start": item.started or None,
        "acknowledged": item.acknowledged,
        "delivery_info": {
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": bool(item.delivery.deliveries or info.get("redelivered")),
        },
        "worker_pid": item.pid or None,
    }


def _queue_info(queue: Queue) -> dict[str, Any]:
    info: dict[str, Any] = msgspec.to_builtins(queue)
    info["exchange"] = {**info["exchange"], "passive": False, "no_declare": False}
    return {**info, "bindings": [], "no_declare": None}
