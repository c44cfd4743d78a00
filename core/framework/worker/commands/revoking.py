"""Commands that keep tasks from running, and tell which."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from framework.exceptions import FrameworkError
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
