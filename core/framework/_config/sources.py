"""The sources of settings: the config file, the environment and flags; each value keeps its origin.

1. `load` finds and reads the file and the environment, adds flags, and refuses unknown settings and wrong types.
2. The file is ``--config``, else FRAMEWORK_CONFIG, else framework.toml, else pyproject.toml with
   ``[tool.framework]``, in the first of the given directories that has one.
3. `resolve` merges the layers; the later wins: defaults, app.conf, file, environment, flags.
4. `install` sets the sources that every `app.conf` of this process uses; the command line calls it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from framework._config.options import Option, accept, aliases, did_you_mean, options, parse, tables
from framework._config.settings import Settings
from framework._config.toml_lines import find_line
from framework._config.urls import complete
from framework.exceptions import ConfigError

LayerName = Literal["default", "code", "file", "environment", "flag"]

# For a service called framework-broker Kubernetes sets FRAMEWORK_BROKER_PORT=tcp://10.0.0.1:6379 and similar variables
# in every pod.
_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")


class Origin(msgspec.Struct, frozen=True):
    """The source of a value."""

    layer: LayerName
    #: Path of the file, name of the variable, spelling of the flag, ``module.py:12`` of an assignment.
    source: str = ""
    #: Full key of a value in the file.
    key: tuple[str, ...] = ()

    @property
    def line(self) -> int | None:
        """The line in the file; None for a value from another source."""
        if self.layer != "file":
            return None
        try:
            return find_line(Path(self.source).read_text(encoding="utf-8"), self.key)
        except OSError:
            return None

    def __str__(self) -> str:
        if self.layer == "file":
            line = self.line
            return display_path(self.source) + (f", line {line}" if line else "")
        if self.layer == "environment":
            return f"environment variable {self.source}"
        if self.layer == "flag":
            return f"option {self.source}"
        if self.layer == "code":
            return f"app.conf ({self.source})" if self.source else "app.conf"
        return f"default ({self.source})" if self.source else "default"


class Value(msgspec.Struct):
    """A value and its origin."""

    value: Any
    origin: Origin


Layer = dict[str, Value]


class Sources(msgspec.Struct):
    """The settings from file, environment and flags. JSON-able, so that a child process need not read them again."""

    #: Path of the config file; None: no file was found.
    path: str | None = None
    #: Directory of the embedded broker's file: the config file's, else the current one.
    directory: str = ""
    file: Layer = {}
    environment: Layer = {}
    flags: Layer = {}
    #: Notes for the user about older names.
    notes: list[str] = []

    def value(self, name: str) -> Any:
        """Return the value of the option `name` in these sources (not in app.conf), else None."""
        for layer in (self.flags, self.environment, self.file):
            if name in layer:
                return layer[name].value
        return None


class Config(msgspec.Struct):
    """Merged settings, and the origin of each that is not a plain default."""

    settings: Settings
    origins: dict[str, Origin]
    sources: Sources
    #: Values of options without effect, by flat name.
    unused: dict[str, Any]

    def value(self, option: Option) -> Any:
        """Return the value of `option`."""
        if option.unused:
            return self.unused.get(option.name, option.default)
        return getattr(getattr(self.settings, option.table) if option.table else self.settings, option.key)

    def origin(self, name: str) -> Origin:
        """Return the origin of the option `name` (flat)."""
        return self.origins.get(name, Origin("default"))


# ---------------------------------------------------------------- process-wide sources

_installed: Sources | None = None


def install(sources: Sources | None) -> None:
    """Use `sources` for every `app.conf` of this process; None: let each read its own."""
    global _installed
    _installed = sources


def installed() -> Sources | None:
    """Return the sources set by `install`."""
    return _installed


# ---------------------------------------------------------------- reading


def load(
    config: str | None = None,
    directories: Iterable[str | os.PathLike[str]] = (),
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, Any]] | None = None,
) -> Sources:
    """Read file and environment and add `flags` (flat name: (spelling, value)).

    `directories`: where to look for a config file; default the current one.

    Raises `ConfigError` for an unreadable file, an unknown key or a wrong value.
    """
    env = os.environ if environ is None else environ
    notes: list[str] = []
    path = _find_file(config or env.get("FRAMEWORK_CONFIG"), list(directories) or [os.getcwd()])
    file = _read_file(path, notes) if path is not None else {}
    directory = os.path.dirname(os.path.abspath(path)) if path is not None else os.getcwd()
    given: Layer = {}
    for name, (spelling, value) in (flags or {}).items():
        option, origin = options()[name], Origin("flag", spelling)
        if isinstance(value, str):
            value = parse(option, value)
        given[name] = Value(accept(option, value, f"option {spelling}"), origin)
    return Sources(path, directory, file, _read_environment(env, notes), given, notes)


def _find_file(config: str | None, directories: Sequence[str | os.PathLike[str]]) -> str | None:
    if config is not None:
        if not os.path.isfile(config):
            raise ConfigError(f"the config file {config} does not exist")
        return config
    for directory in dict.fromkeys(os.fspath(directory) for directory in directories):
        own = os.path.join(directory, "framework.toml")
        if os.path.isfile(own):
            return own
        project = os.path.join(directory, "pyproject.toml")
        if os.path.isfile(project):
            # Parsing takes time, so skip a pyproject.toml without our table.
            try:
                text = Path(project).read_bytes()
            except OSError:
                continue
            if b"tool.framework" in text:
                return project
    return None


def _read_file(path: str, notes: list[str]) -> Layer:
    import tomllib  # imported here: a client without a file does not need it

    try:
        with open(path, "rb") as stream:
            document: Any = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read the config file {display_path(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{display_path(path)} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_toml_problem(path, str(error))) from None
    prefix: tuple[str, ...] = ()
    if os.path.basename(path) == "pyproject.toml":
        prefix = ("tool", "framework")
        document = document.get("tool", {}).get("framework", {})
    return _read_document(document, path, prefix, notes)


def _toml_problem(path: str, error: str) -> str:
    found = re.search(r" \(at line (\d+), column \d+\)", error)
    if found is None:
        return f"{display_path(path)} is not valid TOML: {error}"
    reason = error.replace(found[0], "")
    return f"{display_path(path)}, line {found[1]}: not valid TOML: {reason}"


def _read_document(document: Mapping[str, Any], path: str, prefix: tuple[str, ...], notes: list[str]) -> Layer:
    layer: Layer = {}
    for key, value in document.items():
        where = Origin("file", path, (*prefix, key))
        if key in tables():
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {key} is {value!r}; wanted a table, [{key}]")
            for inner, content in value.items():
                _add_key(layer, key, inner, content, Origin("file", path, (*prefix, key, inner)))
        elif key in options():
            if options()[key].table:
                notes.append(f"{where}: write {options()[key].label} for {key}")
            layer[key] = Value(accept(options()[key], value, str(where)), where)
        elif key in aliases():
            option = options()[aliases()[key]]
            notes.append(f"{where}: {key} is an older name; write {option.label}")
            layer[option.name] = Value(accept(option, value, str(where)), where)
        else:
            near = did_you_mean(key, [*tables(), *(name for name, o in options().items() if not o.table), *options()])
            kind = f"unknown table [{key}]" if isinstance(value, dict) else f"unknown setting {key}"
            raise ConfigError(f"{where}: {kind}{near}")
    _check_nodes(layer)
    return layer


def _add_key(layer: Layer, table: str, key: str, value: Any, origin: Origin) -> None:
    """Put one key of one table into `layer`."""
    option = options().get(f"{table}_{key}")
    if option is None and key.endswith("_file"):
        secret = options().get(f"{table}_{key.removesuffix('_file')}")
        if secret is not None and secret.secret:
            if not isinstance(value, str):
                raise ConfigError(f"{origin}: [{table}] {key} is {value!r}; wanted the path of a file")
            directory = os.path.dirname(os.path.abspath(origin.source))
            text = _read_secret(os.path.join(directory, value), str(origin))
            layer[secret.name] = Value(accept(secret, text, str(origin)), origin)
            return
    if option is None or option.table != table:
        known = [name.key for name in options().values() if name.table == table]
        near = did_you_mean(key, known)
        if not near:
            others = {other.key: other.label for other in options().values() if other.table not in ("", table)}
            near = f"; did you mean {others[key]}?" if key in others else ""
        raise ConfigError(f"{origin}: unknown setting {key} in [{table}]{near}")
    layer[option.name] = Value(accept(option, value, str(origin)), origin)


def _check_nodes(layer: Layer) -> None:
    """Check the tables ``[nodes.<name>]``. Raises `ConfigError` for keys that are no worker settings."""
    if "nodes" not in layer:
        return
    names = [option.key for option in options().values() if option.table == "worker"]
    origin = layer["nodes"].origin
    for node, table in layer["nodes"].value.items():
        for key, value in table.items():
            where = Origin("file", origin.source, (*origin.key, node, key))
            if key not in names:
                raise ConfigError(f"{where}: unknown worker setting {key}{did_you_mean(key, names)}")
            table[key] = accept(options()[f"worker_{key}"], value, str(where))


def _read_environment(env: Mapping[str, str], notes: list[str]) -> Layer:
    layer: Layer = {}
    by_variable = {option.variable: option for option in options().values()}
    # In the guide FRAMEWORK_FSNOTIFY sets worker.fsnotify, not the table [fsnotify].
    aliased = {variable for option in options().values() for variable in option.env}
    for option in options().values():
        for variable in option.env:
            if text := env.get(variable):
                _add_variable(layer, option, variable, text)
                if variable.startswith("CELERY"):
                    notes.append(f"environment variable {variable} is an older name; write {option.variable}")
    for variable, text in env.items():
        # An empty variable counts as unset: a compose file may say `X=${X:-}`.
        if not variable.startswith("FRAMEWORK_") or not text or _is_service_link(variable, text):
            continue
        secret = by_variable.get(variable.removesuffix("_FILE"))
        if variable in aliased:
            continue
        if variable in by_variable:
            _add_variable(layer, by_variable[variable], variable, text)
        elif variable.endswith("_FILE") and secret is not None and secret.secret:
            where = f"environment variable {variable}"
            content = _read_secret(text, where)
            layer[secret.name] = Value(accept(secret, content, where), Origin("environment", variable))
        elif variable.split("_")[1].lower() in tables():
            near = did_you_mean(variable, by_variable)
            raise ConfigError(f"environment variable {variable}: unknown setting{near}")
    return layer


def _is_service_link(variable: str, text: str) -> bool:
    return bool(_SERVICE_LINK.search(variable)) and ("://" in text or "_SERVICE_" in variable or "_PORT_" in variable)


def _add_variable(layer: Layer, option: Option, variable: str, text: str) -> None:
    where = f"environment variable {variable}"
    layer[option.name] = Value(accept(option, parse(option, text), where), Origin("environment", variable))


def _read_secret(path: str, where: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{where}: cannot read {display_path(path)}: {reason}") from None


def display_path(path: str) -> str:
    """Return `path`, relative to the current directory if it is inside."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


# ---------------------------------------------------------------- merging


def resolve(sources: Sources, code: Iterable[Layer] = ()) -> Config:
    """Merge defaults, the layers of `code` (app.conf), file, environment and flags; the later wins."""
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, Origin] = {}
    unused: dict[str, Any] = {}
    for layer in (*code, sources.file, sources.environment, sources.flags):
        for name, item in layer.items():
            option = options()[name]
            origins[name] = item.origin
            if option.unused:
                unused[name] = item.value
                continue
            table = values.setdefault(option.table, {})
            value = item.value
            if option.merges and isinstance(table.get(option.key), dict):
                value = _merge(table[option.key], value)
            table[option.key] = value
    policy = values.get("task", {}).get("publish_retry_policy")
    if isinstance(policy, dict):  # sources that were sent as JSON hold a plain table
        option = options()["task_publish_retry_policy"]
        values["task"]["publish_retry_policy"] = accept(option, policy, option.label)
    top = values.pop("", {})
    top.update((table, tables()[table](**keys)) for table, keys in values.items())
    settings = Settings(**top)
    for name, source in complete(settings, set(origins), sources.directory).items():
        origins[name] = Origin("default", source)
    return Config(settings, origins, sources, unused)


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = {name: dict(table) for name, table in lower.items()}
    for name, table in upper.items():
        merged[name] = {**merged.get(name, {}), **table}
    return merged
