"""The broker inside one process, for tests and for tasks that run in the process that sends them: ``memory://name``.

All transports of a process with the same URL share one broker, which lives as long as its last transport, producer,
consumer or mailbox. It behaves like the embedded broker (`framework_transports.sqlite`): a lower priority number is
served first; a requeued message is at the front again and counted. Nothing survives the process, so it has no leases.
"""

from __future__ import annotations

from framework_transports.memory.transport import MemoryTransport

__all__ = ["MemoryTransport"]
