"""Redis transport: stores messages in kombu's layout, so that Celery's producers and workers can share the queues.

Importing this package imports no client library; the first connection imports hiredis.
"""

from __future__ import annotations

from framework_transports.redis.options import RedisOptions
from framework_transports.redis.transport import RedisTransport

__all__ = ["RedisOptions", "RedisTransport"]
