"""Autoreload: `driver` watches the code, `reloading` imports it anew; a subclass of `Autoreloader` may replace it."""

from __future__ import annotations

from framework.worker.autoreload.driver import Autoreloader

__all__ = ["Autoreloader"]
