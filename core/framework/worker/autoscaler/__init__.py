"""The autoscaler: `driver` scales the pool by the decisions of a plugin.

Users may subclass `Autoscaler`, Celery's name of `AutoscalerDriver`.
"""

from __future__ import annotations

from framework.worker.autoscaler.driver import AutoscalerDriver as Autoscaler

__all__ = ["Autoscaler"]
