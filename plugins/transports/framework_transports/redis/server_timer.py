"""The ticker: a descriptor that turns readable after a while, for servers that cannot push.

The server itself is the clock: it is asked to wait for a list that nobody ever fills, and its answer, that nothing
came, makes the socket readable. No thread, no timer of the loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from framework_drivers.redis.resp import RedisConnection, RedisConnectionSettings, packer
from framework_drivers.redis.url import RedisAddress


class ServerTimer:
    """One connection that is used as a clock of `interval` seconds (whole ones: older servers know no others)."""

    def __init__(
        self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, key: str, interval: float
    ) -> None:
        self._connection = RedisConnection(addresses, settings)
        self._command = packer()(("BLPOP", key, max(1, math.ceil(interval))))
        self._ticking = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._connection.fileno()

    def arm(self) -> None:
        """Have the descriptor turn readable once, an interval from now; it does so anyway when it is armed already."""
        if not self._ticking:
            self._ticking = True
            self._connection.send(self._command)

    def drain(self) -> None:
        """Forget a tick that has come."""
        if self._connection.drain():
            self._ticking = False

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._connection.close()
