"""Commands that revoke and terminate tasks, and list revoked ids."""

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

#: The most ids that a text lists.
_NAMED: Final = 100


@inspect_command(alias="dump_revoked")
def revoked(state: ControlState) -> list[str]:
    """List the revoked ids."""
    return state.revokes.list()


@control_command(signature="ID ...", variadic="task_id")
def revoke(
    state: ControlState, task_id: str | Sequence[str], terminate: bool = False, signal: str | int | None = None
) -> dict[str, str]:
    """Skip the tasks with these ids. Running tasks finish; terminate=true ends them, by signal=NAME (TERM)."""
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
    """Revoke the tasks with these ids, and end the running ones, by this signal in a pool of processes."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(signature="ID ...", variadic="task_id")
def unrevoke(state: ControlState, task_id: str | Sequence[str]) -> dict[str, str]:
    """Allow the tasks with these ids to run again, unless their messages were discarded already."""
    known = state.revokes.remove([task_id] if isinstance(task_id, str) else task_id)
    logger.info("Tasks no longer revoked: %s", _some(known) or "none of those named")
    return {"ok": f"tasks {_set(known)} are no longer revoked" if known else "none of these tasks was revoked"}


@control_command(signature="HEADER=VALUE ...", variadic="headers")
def revoke_by_stamped_headers(
    state: ControlState, headers: dict[str, Any] | list[str], terminate: bool = False, signal: str | None = None
) -> dict[str, str]:
    """Skip the tasks that are stamped with one of these values, until the worker stops."""
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
    """Return the first `ids` as text for the log, with the number of the others."""
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def _set(ids: Sequence[str]) -> str:
    """Return `ids` as text for a reply: the repr of a set, as Celery's clients expect, shortened."""
    return f"{set(ids)}" if len(ids) <= _NAMED else f"{set(ids[:_NAMED])} and {len(ids) - _NAMED:,} more"


def _stamps(words: Sequence[str]) -> dict[str, list[str]]:
    """Parse ``header=value`` words. Raises `FrameworkError`."""
    stamps: dict[str, list[str]] = {}
    for word in words:
        header, equals, value = word.partition("=")
        if not equals or not header:
            raise FrameworkError(f"{word!r} is no stamp: wanted HEADER=VALUE")
        stamps.setdefault(header, []).append(value)
    return stamps
