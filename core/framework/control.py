"""Door for `celery.app.control`: remote control of workers, see `framework.client.control`."""

from __future__ import annotations

from framework.client.control import Control, Inspect

__all__ = ["Control", "Inspect"]
