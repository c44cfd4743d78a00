"""The autoscaler: `driver` scales the pool as the chosen policy says; a subclass of `Autoscaler` may replace it."""

from __future__ import annotations

from framework.worker.autoscaler.driver import Autoscaler

__all__ = ["Autoscaler"]
