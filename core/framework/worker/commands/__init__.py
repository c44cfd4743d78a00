"""The built-in remote-control commands; importing this package registers them.

One module for each subject. A command is a function ``f(state, **arguments)`` whose `state` is the `ControlState`.
"""

from __future__ import annotations

from framework.worker.commands import (
    consuming,
    events,
    inspecting,
    limits,
    meeting,
    memory,
    pools,
    rates,
    revoking,
    scaling,
    stopping,
)
from framework.worker.panel import COMMANDS

__all__ = [
    "PANEL",
    "consuming",
    "events",
    "inspecting",
    "limits",
    "meeting",
    "memory",
    "pools",
    "rates",
    "revoking",
    "scaling",
    "stopping",
]

#: The panel of this process, with the built-in commands on it.
PANEL = COMMANDS
