"""The autoscaler: `driver` scales the pool as the chosen policy says.

A subclass of `Autoscaler` may replace it: that is the name by which users of Celery know `AutoscalerDriver`.
"""

from __future__ import annotations

from framework.worker.autoscaler.driver import AutoscalerDriver as Autoscaler

__all__ = ["Autoscaler"]
