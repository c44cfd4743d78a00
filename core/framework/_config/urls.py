"""The URLs of the broker and of the result store, when all layers have been laid over each other.

1. `complete` fills in what depends on other settings: the embedded broker where none is named, a URL from its parts,
   the short forms of Celery's configurations.
2. This is done before any plugin is loaded, and by programs that load none. So names of plugins stand here as data, as
   Celery's documents and the manual give them; besides the defaults of settings this is the one place of core for that.
   What else a URL means, and whether it is right, is for the plugin that its scheme names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from framework._config.settings import BrokerSettings, ResultSettings, Settings
    from framework._config.tables.legacy import RedisSettings

#: Name of the embedded broker's file.
EMBEDDED_FILE: Final = "framework.db"
#: The embedded broker: used where no broker is named, and for results too where nothing else is said about them.
_EMBEDDED: Final = "sqlite"
#: The broker of configurations that have its parts (BROKER_HOST, …) and no BROKER_TRANSPORT.
_BROKER_OF_PARTS: Final = "amqp"
#: The result store of who keeps no results.
NO_RESULTS: Final = "none://"
#: Short forms of `result_backend`, None: results are not kept.
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
#: The `result_backend` that is completed by the table of its name, ``[redis]``, else by the broker's URL.
_BACKEND_OF_PARTS: Final = "redis"


def complete(settings: Settings, named: set[str], directory: str) -> dict[str, str]:
    """Complete the URLs of `settings`; return where each of those that were made came from, by flat name.

    `named`: the options that somebody set. `directory`: where the embedded broker's file is.
    """
    made: dict[str, str] = {}
    broker, result = settings.broker, settings.result
    if not broker.url:
        broker.url, made["broker_url"] = _broker(broker, directory)
    for key in ("url", "read_url", "write_url"):
        if (url := getattr(broker, key)) and "://" not in url:
            setattr(broker, key, f"{url}://")
    if result.backend is None and "result_backend" not in named and broker.url.startswith(f"{_EMBEDDED}:"):
        result.backend = broker.url
        made["result_backend"] = "the embedded broker's own file"
    else:
        _complete_backend(result, settings.redis, broker.url)
    return made


def _broker(broker: BrokerSettings, directory: str) -> tuple[str, str]:
    """Return the URL of a broker that has none, and where it came from."""
    if broker.host:
        account = (
            f"{broker.user or ''}:{broker.password}@" if broker.password else f"{broker.user}@" if broker.user else ""
        )
        port = f":{broker.port}" if broker.port else ""
        scheme = broker.transport or _BROKER_OF_PARTS
        return f"{scheme}://{account}{broker.host}{port}/{broker.vhost or ''}", "from broker.host"
    if broker.read_url or broker.write_url:
        # Nobody who names one broker means the embedded one as the other.
        return broker.read_url or broker.write_url or "", f"from broker.{'read' if broker.read_url else 'write'}_url"
    return f"{_EMBEDDED}:///" + os.path.join(directory or os.getcwd(), EMBEDDED_FILE), "the embedded broker"


def _complete_backend(result: ResultSettings, parts: RedisSettings, broker_url: str) -> None:
    if result.backend is None:
        return
    if result.backend in _BACKENDS:
        result.backend = _BACKENDS[result.backend]
    elif result.backend == _BACKEND_OF_PARTS and parts.host:
        account = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
        result.backend = f"{_BACKEND_OF_PARTS}://{account}{parts.host}:{parts.port or 6379}/{parts.db or 0}"
    elif result.backend == _BACKEND_OF_PARTS and broker_url.startswith(_BACKEND_OF_PARTS):
        result.backend = broker_url
