"""Door for `celery.utils.nodenames.worker_direct`: the queue of one worker, see `framework.client.routing`."""

from __future__ import annotations

from framework.client.routing import worker_direct

__all__ = ["worker_direct"]
