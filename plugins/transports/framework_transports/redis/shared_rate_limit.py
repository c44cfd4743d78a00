"""The shared rate limit: one key for each limit; a script reserves starts by the server's clock."""

from __future__ import annotations

from collections.abc import Sequence

from framework.api.transport import SharedRateLimit
from framework.exceptions import TransportError
from framework_drivers.redis.resp import RedisConnectionSettings, ScriptCall
from framework_drivers.redis.shared_connection import connect
from framework_drivers.redis.url import RedisAddress
from framework_transports.redis.keys import Keys
from framework_transports.redis.scripts import script


class RedisSharedRateLimit(SharedRateLimit):
    """Reserves starts on one connection."""

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys) -> None:
        self._keys = keys
        self._connection = connect(addresses, settings)
        try:
            self._connection.load([script("turn")])
        except TransportError:
            self._connection.close()
            raise

    def reserve(self, name: str, interval: float, count: int) -> float:
        """Reserve the next `count` starts of `name`; return the seconds until the first."""
        call = ScriptCall(script("turn"), (self._keys.starts(name),), (round(interval * 1e6), count))
        return int(self._connection.run([call])[0]) / 1e6

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._connection.close()
