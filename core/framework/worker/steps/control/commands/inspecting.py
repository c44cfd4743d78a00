"""Commands that only read the worker's state."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from framework._config.show import masked
from framework.api.command import inspect_command
from framework.client.report import report as written
from framework.worker.steps.control.commands._shapes import parked_tasks, queue_info, reserved_requests, task_info

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState


_RUSAGE: Final = (
    "utime stime maxrss ixrss idrss isrss minflt majflt nswap inblock oublock msgsnd msgrcv nsignals nvcsw nivcsw"
)


@inspect_command(alias="dump_active")
def active(state: ControlState, safe: bool = False) -> list[dict[str, Any]]:
    """List the running tasks; safe=true: with the arguments' reprs by the sender, not the decoded arguments."""
    return [task_info(state, request, safe) for request in state.settle.running.values() if request.started]


@inspect_command(alias="dump_reserved")
def reserved(state: ControlState) -> list[dict[str, Any]]:
    """List the tasks that were received and have not started."""
    return [task_info(state, request) for request in reserved_requests(state)]


@inspect_command(alias="dump_schedule")
def scheduled(state: ControlState) -> list[dict[str, Any]]:
    """List the tasks that this worker holds until their eta, and those parked in the broker for its queues."""
    held = [
        {"eta": request.head.headers.eta, "priority": 6, "request": task_info(state, request)}
        for _when, request in sorted(state.intake.schedule, key=lambda entry: entry[0])
    ]
    return [*held, *parked_tasks(state)]


@inspect_command(alias="dump_tasks", signature="[ATTRIBUTE ...]", variadic="taskinfoitems")
def registered(state: ControlState, taskinfoitems: Sequence[str] | None = None, builtins: bool = False) -> list[str]:
    """List the names of the registered tasks."""
    wanted = list(taskinfoitems or ("exchange", "routing_key", "rate_limit"))
    lines = []
    for name, task in sorted(state.app.tasks.items()):
        if name.startswith("_") or (name.startswith("celery.") and not builtins):
            continue
        fields = [(key, getattr(task, key, None)) for key in wanted if not key.startswith("_")]
        info = " ".join(f"{key}={value}" for key, value in fields if value is not None)
        lines.append(f"{name} [{info}]" if info else name)
    return lines


@inspect_command(signature="ID ...", variadic="ids")
def query_task(state: ControlState, ids: str | Sequence[str]) -> dict[str, Any]:
    """Show the tasks with these ids that this worker holds."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    running = state.settle.running.values()
    found: dict[str, Any] = {}
    for label, requests in (
        ("scheduled", [request for _when, request in state.intake.schedule]),
        ("reserved", reserved_requests(state)),
        ("active", [request for request in running if request.started]),
    ):
        found.update(
            {request.task_id: [label, task_info(state, request)] for request in requests if request.task_id in wanted}
        )
    return found


@inspect_command()
def active_queues(state: ControlState) -> list[dict[str, Any]]:
    """List the queues that the worker consumes from."""
    return [queue_info(queue) for queue in state.queues]


@inspect_command(alias="dump_conf")
def conf(state: ControlState, with_defaults: bool = False) -> dict[str, Any]:
    """Show the settings, secrets masked."""
    # No setting is deprecated; programs for Celery's workers read the names of those that are.
    return {**masked(state.app.conf, with_defaults), "deprecated_settings": [] if with_defaults else None}


@inspect_command()
def report(state: ControlState) -> dict[str, str]:
    """Show the facts for a bug report: versions, platform, settings."""
    return {"ok": written(state.app)}


@inspect_command()
def stats(state: ControlState) -> dict[str, Any]:
    """Show statistics of the worker: task counts, pool, broker, resource usage."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    scaling = {} if state.autoscaler is None else {"autoscaler": state.autoscaler.info()}
    return {
        "total": dict(state.settle.total),
        "pid": os.getpid(),
        "clock": str(state.clock.forward()),
        "uptime": int(time.monotonic() - state.started),
        "pool": state.pool.info(),
        "broker": state.transport.info(),
        "prefetch_count": state.prefetch.limit,
        "control": {"refused": dict(state.access.refused)},
        "rusage": {name: getattr(usage, f"ru_{name}") for name in _RUSAGE.split()},
        **scaling,
    }


@inspect_command(default_timeout=0.2)
def ping(state: ControlState) -> dict[str, str]:
    """Answer pong."""
    return {"ok": "pong"}


@inspect_command()
def clock(state: ControlState) -> dict[str, int]:
    """Show the logical clock."""
    return {"clock": state.clock.value}


@inspect_command(visible=False)
def hello(
    state: ControlState, from_node: str, revoked: list[str] | dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Exchange revoked ids and clocks with a worker that starts."""
    if state.mingle is not None:
        state.mingle.hear(from_node)
    if from_node == state.hostname:
        return None
    if revoked:
        # A list since Celery 5.7, before that a mapping by id.
        state.revokes.merge(revoked)
        state.intake.recheck()
    return {"revoked": state.revokes.list(), "clock": state.clock.forward()}
