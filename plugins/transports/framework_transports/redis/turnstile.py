"""The turnstile: one key for each limit, counted by a script on the server's clock."""

from __future__ import annotations

from collections.abc import Sequence

from framework.api.transport import Turnstile
from framework.exceptions import TransportError
from framework_drivers.redis.link import connect
from framework_drivers.redis.resp import Call, LinkSettings
from framework_drivers.redis.url import Address
from framework_transports.redis.keys import Keys
from framework_transports.redis.scripts import script


class RedisTurnstile(Turnstile):
    """Counts on one connection."""

    def __init__(self, addresses: Sequence[Address], settings: LinkSettings, keys: Keys) -> None:
        self._keys = keys
        self._link = connect(addresses, settings)
        try:
            self._link.load([script("turn")])
        except TransportError:
            self._link.close()
            raise

    def reserve(self, name: str, interval: float, count: int) -> float:
        """Reserve the next `count` starts of `name`; return the seconds until the first."""
        call = Call(script("turn"), (self._keys.starts(name),), (round(interval * 1e6), count))
        return int(self._link.run([call])[0]) / 1e6

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._link.close()
