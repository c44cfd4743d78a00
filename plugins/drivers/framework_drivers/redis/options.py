"""Options that every plugin with a Redis connection has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from framework_drivers.redis.resp import RedisConnectionSettings

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class RedisConnectionOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of a connection."""

    socket_timeout: Annotated[Seconds | None, msgspec.Meta(description="Seconds to wait for a reply.")] = 30.0
    socket_keepalive: Annotated[bool, msgspec.Meta(description="Have the system probe idle connections.")] = True
    master_name: Annotated[
        str | None, msgspec.Meta(description="The server's name at the Sentinels of a sentinel:// URL.")
    ] = None
    sentinel_kwargs: Annotated[
        dict[str, Any],
        msgspec.Meta(description="Access to the Sentinels: username, password, ssl (true, or a table as in use_ssl)."),
    ] = msgspec.field(default_factory=dict)

    def connection_settings(
        self, connect_timeout: float | None, use_ssl: bool | Mapping[str, Any] | None
    ) -> RedisConnectionSettings:
        """Return how to connect."""
        return RedisConnectionSettings(
            connect_timeout=connect_timeout,
            timeout=self.socket_timeout,
            keepalive=self.socket_keepalive,
            use_ssl=use_ssl,
            master_name=self.master_name,
            sentinel=self.sentinel_kwargs,
        )
