"""Commands about events: switch task events on and off, send a heartbeat."""

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

#: The interval (s) in a requested heartbeat: monitors show the worker as alive for twice as long.
_FREQ = 5


def _dispatcher(state: ControlState) -> EventDispatcher:
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        raise FrameworkError("event dispatcher unavailable")
    return dispatcher


@control_command()
def enable_events(state: ControlState) -> dict[str, str]:
    """Send task events."""
    if not _dispatcher(state).enable():
        return {"ok": "task events already enabled"}
    logger.info("Task events are sent from now on")
    return {"ok": "task events enabled"}


@control_command()
def disable_events(state: ControlState) -> dict[str, str]:
    """Stop sending task events."""
    if not _dispatcher(state).disable():
        return {"ok": "task events already disabled"}
    logger.info("Task events are no longer sent")
    return {"ok": "task events disabled"}


@control_command()
def heartbeat(state: ControlState) -> None:
    """Send a heartbeat event now."""
    _dispatcher(state).send("worker-heartbeat", freq=_FREQ, **SOFTWARE)


@control_command(visible=False)
def election(state: ControlState, id: str, topic: str, action: Any = None) -> None:  # noqa: A002 - its name on the wire
    """Log a request for an election, and ignore it: elections are not supported."""
    logger.info("Ignored a request for an election about %r: elections are not supported", topic)
