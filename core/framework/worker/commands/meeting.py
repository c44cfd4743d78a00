"""Commands by which workers and clients find each other: who is there, and what the others know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framework.worker.panel import inspect_command

if TYPE_CHECKING:
    from framework.worker.control import ControlState


@inspect_command(default_timeout=0.2)
def ping(state: ControlState) -> dict[str, str]:
    """Answer."""
    return {"ok": "pong"}


@inspect_command()
def clock(state: ControlState) -> dict[str, int]:
    """Tell the logical clock."""
    return {"clock": state.clock.value}


@inspect_command(visible=False)
def hello(
    state: ControlState, from_node: str, revoked: list[str] | dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Exchange revoked ids and clocks with a worker that starts."""
    if from_node == state.hostname:
        return None
    if revoked:
        # A list since Celery 5.7, a mapping of ids before.
        state.revokes.merge(revoked)
        state.intake.recheck()
    return {"revoked": state.revokes.list(), "clock": state.clock.forward()}
