"""Lamport's logical clock, as it travels in the headers of control messages and in events.

Source: Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System" (1978), rules IR1 and IR2.
"""

from __future__ import annotations


class Clock:
    """Counts what this worker sends and has heard of. Used in the loop only."""

    def __init__(self) -> None:
        self.value = 0

    def forward(self) -> int:
        """Count a send and return the time to put on it."""
        self.value += 1
        return self.value

    def adjust(self, other: object) -> int:
        """Count a receipt stamped `other`; anything but an int is taken as no stamp."""
        if isinstance(other, int):
            self.value = max(self.value, other)
        self.value += 1
        return self.value
