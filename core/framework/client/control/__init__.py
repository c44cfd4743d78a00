"""Remote control from the client's side: `control` sends commands, `inspect` asks what workers know."""

from __future__ import annotations

from framework.client.control.control import Control
from framework.client.control.inspect import Inspect

__all__ = ["Control", "Inspect"]
