"""Autoreload: `driver` watches the source files, `reloading` reloads them. Users may subclass `Autoreloader`."""

from __future__ import annotations

from framework.worker.autoreload.driver import Autoreloader

__all__ = ["Autoreloader"]
