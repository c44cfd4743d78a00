"""The broker inside one process, for tests and for tasks that run where they are sent: ``memory://name``.

All transports of a process with the same URL share one broker; it is forgotten with the last transport or face
that uses it. It behaves as the embedded broker does (`framework_transports.sqlite`): a lower priority number is
served first, what is put back is at the front again and counted. Nothing survives the process, so there are no leases.
"""

from __future__ import annotations

from framework_transports.memory.transport import MemoryTransport

__all__ = ["MemoryTransport"]
