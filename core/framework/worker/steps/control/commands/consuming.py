"""Commands that change what a worker takes in: its queues, and whether it takes in anything at all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from framework.api.command import control_command
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState

logger = logging.getLogger(__name__)


@control_command(signature="QUEUE [EXCHANGE [TYPE [ROUTING_KEY]]]")
def add_consumer(
    state: ControlState,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> dict[str, str]:
    """Have the worker consume from one more queue."""
    if not queue:
        raise FrameworkError("the queue to consume from has no name")
    try:
        added = state.queues.add(queue, exchange, exchange_type, routing_key, options)
    finally:
        # What fills the queue already rings no bell; and a connection that was lost over it is noticed by this.
        state.intake.ask()
    return {"ok": f"started consuming from {queue!r}" if added else f"already consuming from {queue!r}"}


@control_command(signature="QUEUE")
def cancel_consumer(state: ControlState, queue: str) -> dict[str, str]:
    """Have the worker consume from a queue no longer; what it has received still runs."""
    if not state.queues.cancel(queue):
        names = ", ".join(sorted(one.name for one in state.queues)) or "no queue"
        raise FrameworkError(f"not consuming from {queue!r}; this worker consumes from {names}")
    state.intake.ask()
    return {"ok": f"no longer consuming from {queue}"}


@control_command()
def quiet(state: ControlState) -> dict[str, str]:
    """Have the worker take in no more tasks; what runs goes on, and what waits goes back to its queue."""
    if not state.intake.fetching:
        return {"ok": "already quiet"}
    state.intake.quiet()
    logger.warning("Quiet by remote: no more tasks are taken in")
    return {"ok": "quiet"}


@control_command()
def resume(state: ControlState) -> dict[str, str]:
    """Have a quiet worker take in tasks again."""
    if state.intake.draining:
        raise FrameworkError("the worker is stopping, and cannot take in tasks again")
    if state.intake.fetching:
        return {"ok": "already taking in tasks"}
    state.intake.resume()
    logger.warning("Resumed by remote: tasks are taken in again")
    return {"ok": "resumed"}
