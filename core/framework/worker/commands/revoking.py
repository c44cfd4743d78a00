"""Commands that keep tasks from running, and tell which."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from framework.worker.ending import end_tasks, signal_named
from framework.worker.panel import control_command, inspect_command

if TYPE_CHECKING:
    from framework.worker.control import ControlState


logger = logging.getLogger(__name__)


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
    logger.info("Tasks flagged as revoked: %s", ", ".join(ids))
    if signum is not None:
        return {"ok": f"terminate: {', '.join(end_tasks(state, ids, signum)) or 'tasks unknown'}"}
    state.intake.recheck()
    return {"ok": f"tasks {set(ids)} flagged as revoked"}


@control_command(signature="SIGNAL ID ...", variadic="task_id")
def terminate(state: ControlState, signal: str | int | None, task_id: str | Sequence[str]) -> dict[str, str]:
    """Revoke the tasks with these ids, and end those that run: where tasks have processes, by this signal."""
    return revoke(state, task_id, terminate=True, signal=signal)
