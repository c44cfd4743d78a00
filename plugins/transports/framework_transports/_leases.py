"""What the transports with leases say, in the same words, of a worker that did not renew its own in time."""

from __future__ import annotations

from typing import Final

#: The lease, and the time since it was renewed (s). Who reads why a task ran twice reads both workers' logs.
OVERSLEPT: Final = (
    "This worker was held up: its lease of %g s was not renewed for %.1f s. What it had on loan may run elsewhere, "
    "too. A stopped process does that, and a task that lets no other thread run"
)
