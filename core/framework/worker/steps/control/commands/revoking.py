"""Commands that keep tasks from running, and tell which."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from framework.api.command import control_command, inspect_command
from framework.exceptions import FrameworkError
from framework.message import read
from framework.worker.dispatch.revoked import matching_stamps, texts
from framework.worker.settle.termination import end_tasks, signal_named

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState


logger = logging.getLogger(__name__)

#: So many ids are named one by one.
_NAMED: Final = 100


@inspect_command(alias="dump_revoked")
def revoked(state: ControlState) -> list[str]:
    """List the ids that were revoked."""
    return state.revokes.list()


@control_command(signature="ID ...", variadic="task_id")
def revoke(
    state: ControlState, task_id: str | Sequence[str], terminate: bool = False, signal: str | int | None = None
) -> dict[str, str]:
    """Have the tasks with these ids skipped. Running ones go on, unless terminate=true; signal=TERM then ends them."""
    ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id]
    signum = signal_named(signal) if terminate else None
    state.revokes.add(ids)
    logger.info("Tasks flagged as revoked: %s", _some(ids))
    if signum is not None:
        return {"ok": f"terminate: {', '.join(end_tasks(state, ids, signum)) or 'tasks unknown'}"}
    state.intake.recheck()
    return {"ok": f"tasks {_set(ids)} flagged as revoked"}


@control_command(signature="SIGNAL ID ...", variadic="task_id")
def terminate(state: ControlState, signal: str | int | None, task_id: str | Sequence[str]) -> dict[str, str]:
    """Revoke the tasks with these ids, and end those that run: where tasks have processes, by this signal."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(signature="ID ...", variadic="task_id")
def unrevoke(state: ControlState, task_id: str | Sequence[str]) -> dict[str, str]:
    """Let the tasks with these ids run again, unless their messages have been discarded already."""
    known = state.revokes.remove([task_id] if isinstance(task_id, str) else task_id)
    logger.info("Tasks no longer revoked: %s", _some(known) or "none of those named")
    return {"ok": f"tasks {_set(known)} are no longer revoked" if known else "none of these tasks was revoked"}


@control_command(signature="HEADER=VALUE ...", variadic="headers")
def revoke_by_stamped_headers(
    state: ControlState, headers: dict[str, Any] | list[str], terminate: bool = False, signal: str | None = None
) -> dict[str, str]:
    """Have tasks skipped that are stamped with one of these values. Remembered until the worker stops."""
    stamps = headers if isinstance(headers, dict) else _stamps(headers)
    state.revokes.add_stamps(stamps)
    state.intake.recheck()
    logger.info("Tasks flagged as revoked by their headers: %s", stamps)
    if not terminate:
        return {"ok": f"headers {stamps} flagged as revoked, but not terminated"}
    running = [request for request in state.settle.running.values() if request.started]
    wanted = {header: texts(values) for header, values in stamps.items()}
    ids = [request.task_id for request in running if matching_stamps(read(request.delivery.payload).headers, wanted)]
    if not ids:
        return {"ok": f"headers {stamps} were not terminated"}
    reply = revoke(state, ids, terminate=True, signal=signal)
    return {"ok": f"headers {stamps} revoked"} if "ok" in reply else reply


def _some(ids: Sequence[str]) -> str:
    """Name `ids` for the log, not a million of them."""
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def _set(ids: Sequence[str]) -> str:
    """Name `ids` in a reply: as the set that clients expect, where that is not too long."""
    return f"{set(ids)}" if len(ids) <= _NAMED else f"{set(ids[:_NAMED])} and {len(ids) - _NAMED:,} more"


def _stamps(words: Sequence[str]) -> dict[str, list[str]]:
    """Take ``header=value`` apart. Raises `FrameworkError`."""
    stamps: dict[str, list[str]] = {}
    for word in words:
        header, equals, value = word.partition("=")
        if not equals or not header:
            raise FrameworkError(f"{word!r} is no stamp: write HEADER=VALUE")
        stamps.setdefault(header, []).append(value)
    return stamps
