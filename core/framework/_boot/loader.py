"""The loader: imports the chosen plugin and checks it against its contract.

1. `load` finds a plugin by family and name (stevedore). Its errors say why a plugin cannot be used: not installed
   (did you mean …), offered by two distributions, missing a library (and the extra that installs it), not keeping the
   contract.
2. `options` fills the plugin's options from its config table.
3. `make_transport`, `make_write_transport` and `make_result_store` choose by URL, `load_pool` and `make_autoscaler` by
   name, `make_watcher` by name or by rank.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import logging
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import msgspec

from framework._boot import catalog
from framework._boot.catalog import PluginInfo
from framework._boot.families import FAMILIES
from framework._config.urls import NO_RESULTS
from framework.api.plugin import API_VERSION, Plugin
from framework.api.result_store import ResultStoreContext
from framework.exceptions import (
    ConfigError,
    FrameworkError,
    PluginConflict,
    PluginError,
    PluginInvalid,
    PluginNotFound,
    PluginUnavailable,
)

if TYPE_CHECKING:
    from framework.api.autoscaler import Autoscaler
    from framework.api.fsnotify import Watcher
    from framework.api.pool import Pool
    from framework.api.result_store import ResultStore
    from framework.api.transport import Transport

logger = logging.getLogger(__name__)


def load(family: str, name: str) -> type[Any]:
    """Import the plugin `name` of `family` and return its class, checked.

    Raises `PluginNotFound`, `PluginConflict`, `PluginUnavailable` or `PluginInvalid`.
    """
    info = _choose(family, name)
    plugin = _import(info)
    if FAMILIES[family].contract:
        _check(info, plugin)
    return plugin  # type: ignore[no-any-return]


def _choose(family: str, name: str) -> PluginInfo:
    found = catalog.find(family, name)
    if len(found) > 1:
        offers = " and ".join(f"{info.distribution} {info.version} ({info.target})" for info in found)
        raise PluginConflict(f"the {family} {name!r} is offered by {offers}: uninstall one of them")
    if found:
        return found[0]
    known = [info.name for info in catalog.plugins(family)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise PluginNotFound(
        f"no {family} named {name!r} is installed{hint} "
        f"(installed: {', '.join(known) or 'none'}; chosen by {FAMILIES[family].chosen_by})"
    )


def _import(info: PluginInfo) -> Any:
    # Imported here: stevedore takes tens of milliseconds, which a client that loads no plugin should not pay.
    from stevedore.driver import DriverManager

    def reraise(_manager: object, _entry_point: object, error: BaseException) -> None:
        raise error

    try:
        manager: DriverManager[Any] = DriverManager(
            FAMILIES[info.family].group, info.name, invoke_on_load=False, on_load_failure_callback=reraise
        )
    except ModuleNotFoundError as error:
        raise PluginUnavailable(_missing_text(info, error)) from error
    except Exception as error:  # the plugin-load wall: the import of a plugin may raise anything
        raise PluginInvalid(
            f"the {info} cannot be imported from {info.target}: {type(error).__name__}: {error}"
        ) from error
    return manager.driver


def _missing_text(info: PluginInfo, error: ModuleNotFoundError) -> str:
    extra = _extra_with(info.distribution, error.name or "")
    if error.name and info.target.startswith(error.name.partition(".")[0]):
        remedy = f"the installation is incomplete, reinstall {info.distribution}"
    elif extra:
        remedy = f"pip install '{info.distribution}[{extra}]'"
    else:
        remedy = f"pip install {error.name}" if error.name else f"reinstall {info.distribution}"
    return f"the {info} needs the module {error.name!r}, which is not installed: {remedy}"


def _extra_with(distribution: str, module: str) -> str | None:
    """Return the extra of `distribution` that requires the distribution of `module`, by name."""
    top = module.partition(".")[0].lower().replace("_", "-")
    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        name, _, marker = requirement.partition(";")
        if "extra ==" in marker and name.lower().replace("_", "-").startswith(top):
            return marker.split("extra ==")[1].strip().strip("\"'")
    return None


def _check(info: PluginInfo, plugin: Any) -> None:
    module, _, attribute = FAMILIES[info.family].contract.partition(":")
    contract = getattr(import_module(module), attribute)

    def refuse(expected: str) -> PluginInvalid:
        return PluginInvalid(
            f"the {info} does not keep the contract of its family: {info.target} {expected} "
            f"(see {module}; update {info.distribution}, or report this to its authors)"
        )

    if not (inspect.isclass(plugin) and issubclass(plugin, contract)):
        raise refuse(f"must be a subclass of {module}.{attribute}, but is {plugin!r}")
    if missing := sorted(getattr(plugin, "__abstractmethods__", ())):
        raise refuse(f"must implement {', '.join(missing)}")
    if issubclass(plugin, Plugin):
        if plugin.api_version != API_VERSION:
            raise refuse(
                f"was written for version {plugin.api_version} of the plugin API, and this is version {API_VERSION}"
            )
        if not issubclass(plugin.options_type, msgspec.Struct):
            raise refuse("must have an options_type that is a msgspec.Struct")
    if "traits" in contract.__annotations__ and not isinstance(getattr(plugin, "traits", None), msgspec.Struct):
        raise refuse("must declare its traits")


def options(family: str, name: str, plugin: type[Plugin], table: Mapping[str, Any]) -> msgspec.Struct:
    """Return the options of `plugin` filled from its config table. Raises `ConfigError`, which names table and key."""
    wanted = plugin.options_type
    known = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f" (it has {', '.join(known) or 'no options'})"
            raise ConfigError(f"[{family}.{name}]: the {family} {name!r} has no option {key!r}{hint}")
    try:
        return msgspec.convert(dict(table), wanted)
    except msgspec.ValidationError as error:
        raise ConfigError(f"[{family}.{name}]: {error}") from error


# ---------------------------------------------------------------- by URL


def scheme_of(url: str) -> str:
    """Return the scheme of `url`, lower-case. Raises `ConfigError` when it has none."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        # The text may hold a password, so the error does not show it.
        raise ConfigError(
            "a broker or result URL must look like scheme://…, for example redis://localhost:6379/0 or sqlite:///framework.db"
        )
    return scheme.lower()


def transport_name(url: str) -> str:
    """Return the name of the transport plugin for `url`."""
    scheme = scheme_of(url)
    if catalog.find("transport", scheme):
        return scheme
    # If no transport accepts the scheme, `load` raises an error that lists the installed ones.
    return next((info.name for info, plugin in _loadable("transport") if plugin.accepts(scheme)), scheme)


def _loadable(family: str) -> Iterator[tuple[PluginInfo, type[Any]]]:
    """Yield the installed plugins of `family`, each class once; a plugin that fails to load is logged and skipped."""
    seen = set()
    for info in catalog.plugins(family):
        if info.target in seen:
            continue
        seen.add(info.target)
        try:
            plugin = load(family, info.name)
        except FrameworkError as error:
            logger.warning("Ignoring the %s: %s", info, error)
            continue
        yield info, plugin


def load_transport(settings: Any) -> tuple[str, type[Transport]]:
    """Load the transport of the broker that workers consume from; return its name and its class."""
    broker = settings.broker
    with _prefix_errors("broker_read_url" if broker.read_url else None):
        name = transport_name(broker.reading)
        return name, load("transport", name)


def make_transport(settings: Any, url: str | None = None) -> Transport:
    """Make the transport for `url`, by default of the broker that workers consume from. It does not connect yet.

    Raises `PluginError` or `ConfigError`.
    """
    if url is not None:
        return _make_transport(settings, url, {})
    broker = settings.broker
    with _prefix_errors("broker_read_url" if broker.read_url else None):
        return _make_transport(settings, broker.reading, broker.transport_options)


def make_write_transport(settings: Any) -> Transport:
    """Make the transport of the broker that clients publish tasks to. It does not connect yet.

    Raises `PluginError` or `ConfigError`.
    """
    broker = settings.broker
    with _prefix_errors("broker_write_url" if broker.write_url else None):
        return _make_transport(settings, broker.writing, broker.transport_options)


@contextlib.contextmanager
def _prefix_errors(setting: str | None) -> Iterator[None]:
    """Prefix errors with the name of `setting`: a configuration may hold three broker URLs."""
    try:
        yield
    except (ConfigError, PluginError) as error:
        if setting is None:
            raise
        raise type(error)(f"{setting}: {error}") from error


def _make_transport(settings: Any, url: str, shared: Mapping[str, Any]) -> Transport:
    broker = settings.broker
    name = transport_name(url)
    plugin = load("transport", name)
    own = _options_table(plugin, name)
    table = {**settings.transport.get(own, {}), **_own_options(name, plugin, shared)}
    return plugin(  # type: ignore[no-any-return]
        url,
        options("transport", own, plugin, table),
        {
            "connection_timeout": broker.connection_timeout,
            "heartbeat": broker.heartbeat,
            "use_ssl": broker.use_ssl,
            "failover_strategy": broker.failover_strategy,
            "login_method": broker.login_method,
            "native_delayed_delivery_queue_type": broker.native_delayed_delivery_queue_type,
        },
    )


def _own_options(name: str, plugin: type[Plugin], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `transport_options` that `plugin` has: a Celery configuration shares one table among brokers.

    A plugin that passes options on (it has an option `transport_options`) gets all of them; for others, unknown options
    are logged and left out.
    """
    known = {field.encode_name for field in msgspec.structs.fields(plugin.options_type)}
    if "transport_options" in known:
        return {"transport_options": given} if given else {}
    if unknown := sorted(given.keys() - known):
        logger.warning("The transport %r ignores these unknown transport_options: %s", name, ", ".join(unknown))
    return {key: value for key, value in given.items() if key in known}


def _options_table(plugin: type[Plugin], name: str) -> str:
    """Return the name of the config table of `plugin`, which was chosen by the URL scheme `name`."""
    return plugin.options_table or name.partition("+")[0]


def load_pool(settings: Any) -> tuple[type[Pool], msgspec.Struct]:
    """Load the pool that `settings` name; return its class and its options."""
    name = settings.worker.pool
    plugin = load("pool", name)
    return plugin, options("pool", name, plugin, settings.pool.get(name, {}))


def make_autoscaler(settings: Any, name: str) -> Autoscaler:
    """Make the autoscaler called `name`, with its options from `settings`."""
    plugin = load("autoscaler", name)
    return plugin(options("autoscaler", name, plugin, settings.autoscaler.get(name, {})))  # type: ignore[no-any-return]


def make_watcher(settings: Any) -> Watcher:
    """Make the file watcher that `settings` name, else the best available one. It watches nothing yet.

    Raises `PluginUnavailable` when the named watcher cannot work on this system.
    """
    name = settings.worker.fsnotify or _best_watcher()
    plugin = load("fsnotify", name)
    if (reason := plugin.unavailable()) is not None:
        raise PluginUnavailable(f"the {_choose('fsnotify', name)} does not work on this system: {reason}")
    return plugin(options("fsnotify", name, plugin, settings.fsnotify.get(name, {})))  # type: ignore[no-any-return]


def _best_watcher() -> str:
    found = [(plugin.rank, info.name) for info, plugin in _loadable("fsnotify") if plugin.unavailable() is None]
    if not found:
        raise PluginNotFound("no installed file watcher works on this system: reinstall framework")
    return max(found)[1]


def make_result_store(settings: Any, transport: Transport, oid: str = "") -> ResultStore:
    """Make the result store that `settings` name, by default ``none``. It does not connect yet.

    The store reaches the broker through `transport`; `oid` is the name of this client's reply queue.
    """
    result = settings.result
    url = result.backend or NO_RESULTS
    name = scheme_of(url)
    plugin = load("result_store", name)
    own = _options_table(plugin, name)
    table = {**settings.result_store.get(own, {}), **result.backend_transport_options}
    return plugin(  # type: ignore[no-any-return]
        url,
        options("result_store", own, plugin, table),
        ResultStoreContext(
            expires=result.expires,
            failure_expires=result.failure_expires,
            chord_expires=result.chord_expires,
            persistent=bool(result.persistent),
            serializer=result.serializer,
            use_ssl=settings.redis.backend_use_ssl,
            oid=oid,
            broker_url=transport.url,
            producer=transport.producer,
            consumer=transport.consumer,
        ),
    )
