"""``from framework.contrib import rdb``: the same as `framework.rdb`."""

from __future__ import annotations

from framework.rdb import Rdb, set_trace

__all__ = ["Rdb", "set_trace"]
