"""Commands that change consumption: the queues, quiet and resume."""

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
    """Consume from one more queue."""
    try:
        added = state.queues.add(queue, exchange, exchange_type, routing_key, options)
    except ValueError as error:
        raise FrameworkError(str(error)) from error
    finally:
        # Messages that wait in the queue send no notification; and a fetch notices a lost connection.
        state.intake.ask()
    return {"ok": f"started consuming from {queue!r}" if added else f"already consuming from {queue!r}"}


@control_command(signature="QUEUE")
def cancel_consumer(state: ControlState, queue: str) -> dict[str, str]:
    """Stop consuming from a queue; received tasks still run."""
    if not state.queues.cancel(queue):
        names = ", ".join(sorted(one.name for one in state.queues)) or "no queue"
        return {"ok": f"not consuming from {queue!r}; this worker consumes from {names}"}
    state.intake.ask()
    return {"ok": f"no longer consuming from {queue}"}


@control_command()
def quiet(state: ControlState) -> dict[str, str]:
    """Stop receiving tasks; running tasks continue, waiting ones are requeued."""
    if not state.intake.fetching:
        return {"ok": "already quiet"}
    state.intake.quiet()
    logger.warning("Quiet by remote: no more tasks are received")
    return {"ok": "quiet"}


@control_command()
def resume(state: ControlState) -> dict[str, str]:
    """Receive tasks again after quiet."""
    if state.intake.draining:
        raise FrameworkError("the worker is stopping and cannot receive tasks again")
    if state.intake.fetching:
        return {"ok": "already receiving tasks"}
    state.intake.resume()
    logger.warning("Resumed by remote: tasks are received again")
    return {"ok": "resumed"}
