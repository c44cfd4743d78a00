"""The client's side of remote control: `Control` sends commands, `Inspect` queries workers."""

from __future__ import annotations

from framework.client.control.control import Control
from framework.client.control.inspect import Inspect

__all__ = ["Control", "Inspect"]
