"""Door for `celery.worker.control`: decorators and types for remote-control commands.

The built-in commands are in `framework.worker.steps.control.commands`.
"""

from __future__ import annotations

from framework.api.command import COMMANDS, Command, Panel, control_command, inspect_command
from framework.worker.steps.control.state import ControlState

__all__ = ["COMMANDS", "Command", "ControlState", "Panel", "control_command", "inspect_command"]
