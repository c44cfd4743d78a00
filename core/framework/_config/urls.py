"""Completes the URLs of the broker and of the result store once all layers of settings are merged.

1. `complete` fills in URLs that depend on other settings: the embedded broker if none is named, a URL from its parts,
   the short forms of Celery's configurations.
2. It runs before any plugin is loaded, and in programs that load none. Therefore this module contains names of plugins,
   as Celery's documents and the manual use them; the rest of core names plugins only in defaults of settings. The
   plugin of a URL's scheme checks the rest of the URL.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from framework.server_url import with_account

if TYPE_CHECKING:
    from framework._config.settings import BrokerSettings, ResultSettings, Settings
    from framework._config.tables.legacy import RedisSettings

#: Name of the embedded broker's file.
EMBEDDED_FILE: Final = "framework.db"
#: Scheme of the embedded broker, the default; it is also the default for results, if it is the broker.
_EMBEDDED: Final = "sqlite"
#: Scheme of a broker that is given in parts (BROKER_HOST, …) without BROKER_TRANSPORT.
_BROKER_OF_PARTS: Final = "amqp"
#: URL of the result store that keeps no results.
NO_RESULTS: Final = "none://"
#: Short forms of `result_backend`; None: results are not kept.
_BACKENDS: Final = {
    "": None,
    "none": None,
    "none://": None,
    "disabled": None,
    "disabled://": None,
    "rpc": "rpc://",
    "amqp": "rpc://",
    "amqp://": "rpc://",
}
#: The `result_backend` whose URL is made from the table ``[redis]``, else from the broker's URL.
_BACKEND_OF_PARTS: Final = "redis"


def complete(settings: Settings, named: set[str], directory: str) -> dict[str, str]:
    """Complete the URLs of `settings`; return the source of each completed URL, by flat name.

    `named`: the options that are set. `directory`: of the embedded broker's file.
    """
    made: dict[str, str] = {}
    broker, result = settings.broker, settings.result
    if not broker.url:
        broker.url, made["broker_url"] = _broker(broker, directory)
    for key in ("url", "read_url", "write_url"):
        if url := getattr(broker, key):
            full = url if "://" in url else f"{url}://"
            setattr(broker, key, with_account(full, broker.username, broker.password, "broker"))
    if result.backend is None and "result_backend" not in named and broker.url.startswith(f"{_EMBEDDED}:"):
        result.backend = broker.url
        made["result_backend"] = "the embedded broker's own file"
    else:
        _complete_backend(result, settings.redis, broker.url)
        if result.backend is not None:
            result.backend = with_account(result.backend, result.username, result.password, "result")
    return made


def _broker(broker: BrokerSettings, directory: str) -> tuple[str, str]:
    """Return the URL of a broker without `url`, and the source of that URL."""
    if broker.host:
        port = f":{broker.port}" if broker.port else ""
        scheme = broker.transport or _BROKER_OF_PARTS
        return f"{scheme}://{broker.host}{port}/{broker.vhost or ''}", "from broker.host"
    if broker.read_url or broker.write_url:
        # A configuration that names one broker does not mean the embedded broker as the other.
        return broker.read_url or broker.write_url or "", f"from broker.{'read' if broker.read_url else 'write'}_url"
    return f"{_EMBEDDED}:///" + os.path.join(directory or os.getcwd(), EMBEDDED_FILE), "the embedded broker"


def _complete_backend(result: ResultSettings, parts: RedisSettings, broker_url: str) -> None:
    if result.backend is None:
        return
    if result.backend in _BACKENDS:
        result.backend = _BACKENDS[result.backend]
    elif result.backend == _BACKEND_OF_PARTS and parts.host:
        url = f"{_BACKEND_OF_PARTS}://{parts.host}:{parts.port or 6379}/{parts.db or 0}"
        result.backend = with_account(url, parts.username, parts.password, "redis")
    elif result.backend == _BACKEND_OF_PARTS and broker_url.startswith(_BACKEND_OF_PARTS):
        result.backend = broker_url
