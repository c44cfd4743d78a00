"""A timer run by the server: a descriptor that turns readable after an interval, for servers that cannot push.

The client blocks on a list that stays empty; the server's reply at the timeout makes the socket readable. This needs no
thread and no timer in the loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from framework_drivers.redis.resp import RedisConnection, RedisConnectionSettings, packer
from framework_drivers.redis.url import RedisAddress


class ServerTimer:
    """One connection, used as a timer of `interval` seconds (rounded up: older servers take whole seconds only)."""

    def __init__(
        self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, key: str, interval: float
    ) -> None:
        self._connection = RedisConnection(addresses, settings)
        self._command = packer()(("BLPOP", key, max(1, math.ceil(interval))))
        self._armed = False

    def fileno(self) -> int:
        """Return the descriptor that turns readable when the interval is over."""
        return self._connection.fileno()

    def arm(self) -> None:
        """Make the descriptor readable once, an interval from now; an armed timer keeps its time."""
        if not self._armed:
            self._armed = True
            self._connection.send(self._command)

    def drain(self) -> None:
        """Read a reply that has come, so that the timer can be armed again."""
        if self._connection.drain():
            self._armed = False

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._connection.close()
