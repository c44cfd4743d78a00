"""Door for `celery.utils.nodenames.worker_direct`: a worker's own queue, see `framework.client.routing`."""

from __future__ import annotations

from framework.client.routing import worker_direct

__all__ = ["worker_direct"]
