"""The log line that the transports with leases share."""

from __future__ import annotations

from typing import Final

#: Arguments: the lease and the seconds since its last renewal. It explains a task that ran twice.
LEASE_NOT_RENEWED: Final = (
    "This worker was held up: its lease of %g s was not renewed for %.1f s. Other workers may run its unacknowledged "
    "tasks, too. Causes: the process was stopped, or a task kept all other threads from running"
)
