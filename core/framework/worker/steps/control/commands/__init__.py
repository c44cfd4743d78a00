"""The built-in remote-control commands; importing this package registers them.

Each module is for one subject. A command is a function ``f(state, **arguments)``; `state` is the `ControlState`.
"""

from __future__ import annotations

from framework.api.command import COMMANDS
from framework.worker.steps.control.commands import consuming, inspecting, limits, memory, pool, revoking
from framework.worker.steps.events import commands as events

__all__ = ["PANEL", "consuming", "events", "inspecting", "limits", "memory", "pool", "revoking"]

#: The panel of this process, with the built-in commands.
PANEL = COMMANDS
