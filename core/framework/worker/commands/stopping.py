"""Commands that stop a worker."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from framework.worker.panel import control_command

if TYPE_CHECKING:
    from framework.worker.control import ControlState


logger = logging.getLogger(__name__)


@control_command()
def shutdown(state: ControlState, msg: str = "Got shutdown from remote") -> dict[str, str]:
    """Stop the worker warmly."""
    logger.warning("%s", msg)
    state.stop()
    return {"ok": "shutting down"}
