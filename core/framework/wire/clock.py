"""Lamport's logical clock, carried in the headers of control messages and in events.

Source: Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System" (1978), rules IR1 and IR2.
"""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

#: The highest stamp that is taken: no cluster comes to it in a hundred years. Brokers and JSON carry it, and what
#: follows: a clock at the end of 64 bits could stamp no further message.
_STAMP_MAX: Final = 2**48


class Clock:
    """A logical clock, advanced by each message sent or received. Not thread-safe: used in the loop only."""

    def __init__(self) -> None:
        self.value = 0
        self._warned = False

    def forward(self) -> int:
        """Advance the clock for a message to send; return the value to stamp on it."""
        self.value += 1
        return self.value

    def adjust(self, other: object) -> int:
        """Advance the clock for a received message stamped `other`; a stamp that no clock can have is ignored."""
        if type(other) is int and other > self.value:
            if other <= _STAMP_MAX:
                self.value = other
            elif not self._warned:
                self._warned = True
                logger.warning(
                    "The logical clock %.0e of a control message or event is ignored, and further ones of the kind are "
                    "without a log line: no worker comes so far, so a client of this broker sends wrong ones",
                    min(other, 10**30),
                )
        self.value += 1
        return self.value
