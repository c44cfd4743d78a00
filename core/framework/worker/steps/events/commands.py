"""Commands about events: switch those of tasks on and off, ask for a sign of life."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from framework.api.command import control_command
from framework.exceptions import FrameworkError
from framework.worker.steps.events.heartbeat import SOFTWARE

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState
    from framework.worker.steps.events.dispatcher import EventDispatcher

logger = logging.getLogger(__name__)

#: What a heartbeat says that was asked for: monitors take the worker for alive for twice as many seconds.
_FREQ = 5


def _dispatcher(state: ControlState) -> EventDispatcher:
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        raise FrameworkError("event dispatcher unavailable")
    return dispatcher


@control_command()
def enable_events(state: ControlState) -> dict[str, str]:
    """Have the worker send task events."""
    if not _dispatcher(state).enable():
        return {"ok": "task events already enabled"}
    logger.info("Task events are sent from now on")
    return {"ok": "task events enabled"}


@control_command()
def disable_events(state: ControlState) -> dict[str, str]:
    """Have the worker send no task events."""
    if not _dispatcher(state).disable():
        return {"ok": "task events already disabled"}
    logger.info("Task events are no longer sent")
    return {"ok": "task events disabled"}


@control_command()
def heartbeat(state: ControlState) -> None:
    """Have the worker send a heartbeat event now."""
    _dispatcher(state).send("worker-heartbeat", freq=_FREQ, **SOFTWARE)


@control_command(visible=False)
def election(state: ControlState, id: str, topic: str, action: Any = None) -> None:  # noqa: A002 - as it comes in
    """Take note of an election; our workers hold none."""
    logger.info("An election about %r was asked for; workers of this kind hold none", topic)
