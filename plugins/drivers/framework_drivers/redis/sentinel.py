"""Finds the master through Sentinels, for every new `RedisConnection`.

1. `locate` asks the URL's Sentinels in turn for the address of the master ``master_name``.
2. `must_be_master` checks the server's role: during a failover a Sentinel may still return the old master.

Source: the documentation of Sentinel's clients at redis.io.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from framework.exceptions import ConfigError, ConnectionLost, TransportError
from framework_drivers.redis.resp import RedisConnection, RedisConnectionSettings
from framework_drivers.redis.url import RedisAddress

logger = logging.getLogger(__name__)

#: Seconds to wait for a Sentinel's reply: short, because the loop waits, and other Sentinels may answer.
_TIMEOUT: Final = 2.0


def check(addresses: Sequence[RedisAddress], master_name: str | None) -> None:
    """Raise `ConfigError` for a Sentinel URL without the name of a master, and for a mixture of schemes."""
    sentinels = [address.sentinel for address in addresses]
    if any(sentinels) and not all(sentinels):
        raise ConfigError(f"{addresses[0].display} and the others must all be sentinel:// URLs, or none of them")
    if any(sentinels) and not (master_name or addresses[0].parameters.get("master_name")):
        raise ConfigError(
            f"{addresses[0].display} names no master: set the option master_name to the master's name in the "
            "Sentinels' configuration"
        )


def locate(addresses: Sequence[RedisAddress], settings: RedisConnectionSettings) -> RedisAddress:
    """Return the address of the master. Raises `ConnectionLost` when no Sentinel returns one."""
    first = addresses[0]
    name = settings.master_name or first.parameters.get("master_name") or ""
    errors = []
    for address in addresses:
        try:
            found = _query(address, name, settings)
        except TransportError as error:
            errors.append(str(error))
            continue
        if found is not None:
            host, port = found
            return RedisAddress(
                scheme="redis", host=host, port=port, db=first.db, username=first.username, password=first.password
            )
        errors.append(f"{address.display} has no master {name!r}")
    raise ConnectionLost("; ".join(errors))


def _query(address: RedisAddress, name: str, settings: RedisConnectionSettings) -> tuple[str, int] | None:
    own: Mapping[str, Any] = settings.sentinel or {}
    limits = [seconds for seconds in (settings.connect_timeout, _TIMEOUT) if seconds]
    sentinel = msgspec.structs.replace(
        address, scheme="redis", db=0, username=own.get("username"), password=own.get("password"), parameters={}
    )
    use_ssl = own.get("use_ssl", own.get("ssl"))
    connection = RedisConnection(
        [sentinel],
        RedisConnectionSettings(connect_timeout=min(limits), timeout=_TIMEOUT, use_ssl=use_ssl, name=settings.name),
    )
    try:
        found = connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    finally:
        connection.close()
    if found is None:
        return None
    host, port = (part.decode() if isinstance(part, bytes) else str(part) for part in found)
    return host, int(port)


def must_be_master(connection: RedisConnection) -> None:
    """Raise `ConnectionLost` unless the server of `connection` is a master."""
    role = connection.call("ROLE")[0]
    if role not in (b"master", "master"):
        connection.close()
        raise ConnectionLost(
            f"{connection.address.display} is no longer the master, and the Sentinels have not announced another yet"
        )
