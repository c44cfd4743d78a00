"""Commands about the autoscaler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.exceptions import FrameworkError
from framework.worker.panel import control_command

if TYPE_CHECKING:
    from framework.worker.control import ControlState


@control_command(signature="[MAX [MIN]]")
def autoscale(
    state: ControlState,
    max: int | None = None,  # noqa: A002 - the names of the request
    min: int | None = None,  # noqa: A002
) -> dict[str, str]:
    """Change the sizes between which the pool is scaled; what is left out stays."""
    if state.autoscaler is None:
        raise FrameworkError("Autoscale not enabled: start the worker with --autoscale MAX,MIN")
    largest, smallest = state.autoscaler.update(max, min)
    return {"ok": f"autoscale now max={largest} min={smallest}"}
