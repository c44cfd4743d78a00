"""Lamport's logical clock, carried in the headers of control messages and in events.

Source: Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System" (1978), rules IR1 and IR2.
"""

from __future__ import annotations


class Clock:
    """A logical clock, advanced by each message sent or received. Not thread-safe: used in the loop only."""

    def __init__(self) -> None:
        self.value = 0

    def forward(self) -> int:
        """Advance the clock for a message to send; return the value to stamp on it."""
        self.value += 1
        return self.value

    def adjust(self, other: object) -> int:
        """Advance the clock for a received message stamped `other`; a stamp that is not an int is ignored."""
        if isinstance(other, int):
            self.value = max(self.value, other)
        self.value += 1
        return self.value
