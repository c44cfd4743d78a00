"""The settings as a flat list of options, with conversion and checks of their values.

1. `options()` maps flat names (``worker_pool``) to `Option`s.
2. `aliases()` maps every older spelling to a flat name.
3. `parse` converts text (environment, flags) to a value; `accept` converts a value to the option's type.
4. A value of a wrong type is a `ConfigError` that names the place, the value and the wanted type.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from os import PathLike
from typing import Any, Final, Literal

import msgspec

from framework._config.settings import PLUGIN_TABLES, Settings
from framework._config.tables.base import Table
from framework._config.tables.unused import UNUSED_SETTINGS
from framework.exceptions import ConfigError
from framework.server_url import hide

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NOTHING = frozenset({"none", "null"})


class Option(msgspec.Struct, frozen=True):
    """One setting."""

    #: Flat name, as in `app.conf`.
    name: str
    #: Table and key of the config file; the table is "" at the top.
    table: str
    key: str
    type: Any
    default: Any
    help: str
    old: tuple[str, ...]
    flag: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    value: Any = None
    metavar: str | None = None
    env: tuple[str, ...] = ()
    secret: bool = False
    since: str | None = None
    #: Accepted without effect: `Settings` has no field for it.
    unused: bool = False

    @property
    def label(self) -> str:
        """The option as written in the config file: ``[worker] pool``."""
        return f"[{self.table}] {self.key}" if self.table else self.key

    @property
    def variable(self) -> str:
        """The environment variable of the option."""
        return f"FRAMEWORK_{self.name.upper()}"

    @property
    def merges(self) -> bool:
        """Whether layers are merged key by key; otherwise the upper layer replaces the lower."""
        return self.table == "" and (self.key in PLUGIN_TABLES or self.key == "nodes")


@cache
def tables() -> dict[str, type[Table]]:
    """Return the struct of each table of the config file, by name."""
    found = {}
    for field in msgspec.structs.fields(Settings):
        kind = bare(field.type)
        if isinstance(kind, type) and issubclass(kind, Table):
            found[field.name] = kind
    return found


@cache
def options() -> dict[str, Option]:
    """Return every option by its flat name."""
    found: dict[str, Option] = {}
    inner = tables()
    structs: list[tuple[str, type[Table]]] = [("", Settings), *inner.items()]
    for table, struct in structs:
        for field in msgspec.structs.fields(struct):
            if table == "" and field.name in inner:
                continue
            meta = typing.get_args(field.type)[-1]
            extra: dict[str, Any] = meta.extra
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            name = _flat(table, field.name)
            found[name] = Option(name, table, field.name, field.type, default, meta.description, **extra)
        for each in UNUSED_SETTINGS.get(table, ()):
            name = _flat(table, each.key)
            found[name] = Option(
                name, table, each.key, each.type, each.default, each.help, each.old, each.flag, unused=True
            )
    return found


def _flat(table: str, key: str) -> str:
    return f"{table}_{key}" if table else key


@cache
def aliases() -> dict[str, str]:
    """Map older spellings to flat names: ``CELERYD_POOL`` and ``CELERY_WORKER_POOL`` to ``worker_pool``."""
    found: dict[str, str] = {}
    for option in options().values():
        for old in option.old:
            found[old] = option.name
    for name in options():
        found.setdefault(f"CELERY_{name.upper()}", name)
    return found


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """Return ``; did you mean x?`` for the name in `known` most similar to `word`, else an empty string."""
    near = get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


# ---------------------------------------------------------------- values


def parse(option: Option, text: str) -> Any:
    """Read `text`, from the environment or the command line, as a value of `option`; `accept` checks it."""
    kinds = _kinds(option.type)
    if not kinds & {bool, int, float, dict, Any}:
        return text
    word = text.strip().lower()
    if word in _WORDS and bool in kinds:
        return _WORDS[word]
    if word in ("1", "0") and bool in kinds and int not in kinds:
        return word == "1"
    if word in _NOTHING and type(None) in kinds:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def accept(option: Option, value: Any, where: str) -> Any:
    """Return `value` converted to the type of `option`. Raises `ConfigError`, whose text starts with `where`."""
    prepared = _prepare(option, value)
    try:
        return msgspec.convert(prepared, option.type)
    except msgspec.ValidationError as error:
        kind = bare(option.type)
        if option.merges:
            problem = f"wanted a table of tables, as in [{option.key}.name]"
        elif isinstance(prepared, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
            problem = _wrong_key(prepared, fields) or str(error)
        else:
            problem = f"wanted {describe(option.type)}"
        raise ConfigError(f"{where}: {option.label} is {shown(option, value)}; {problem}") from None


def _wrong_key(table: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
    """Return which key of an inner table is wrong, and why, in words; None: no key is."""
    for key, value in table.items():
        if key not in fields:
            return f"unknown key {key}{did_you_mean(key, fields)}"
        try:
            msgspec.convert(value, fields[key])
        except msgspec.ValidationError:
            return f"{key} is {value!r}; wanted {describe(fields[key])}"
    return None


def shown(option: Option, value: Any) -> str:
    """Return `value` for messages: secrets are masked, and long values cut."""
    if option.secret and value:
        return repr(hide(str(value)))
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def describe(kind: Any) -> str:
    """Return the values of a type in words: ``a whole number >= 1, or 'auto', or nothing``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return describe(args[0]) + "".join(_limits(meta) for meta in args[1:])
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args) if len(args) > 1 else repr(args[0])
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(describe(arg) for arg in args)
    if origin is list:
        return "a list of strings"
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        dict: "a table",
        type(None): "nothing",
    }
    return names.get(origin or kind, "a table")


def choices(option: Option) -> str | None:
    """Return the words that an option allows, as ``fork|spawn``; None: the option is not a choice of words."""
    kind = bare(option.type)
    return "|".join(map(str, typing.get_args(kind))) if typing.get_origin(kind) is Literal else None


def bare(kind: Any) -> Any:
    """Return the type inside `Annotated`, else the type itself."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _limits(meta: msgspec.Meta) -> str:
    signs = {">=": meta.ge, ">": meta.gt, "<=": meta.le, "<": meta.lt}
    return "".join(f" {sign} {limit}" for sign, limit in signs.items() if limit is not None)


@cache
def _kinds(kind: Any) -> frozenset[Any]:
    """Return the plain types in a union, and the types of literals."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _kinds(args[0])
    if origin is Literal:
        return frozenset(type(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return frozenset().union(*(_kinds(arg) for arg in args))
    plain = origin or kind
    return frozenset({dict if isinstance(plain, type) and issubclass(plain, msgspec.Struct) else plain})


#: Settings that take several URLs: as a list, or separated by ``;``.
_URLS: Final = ("broker_url", "broker_read_url", "broker_write_url")


def _prepare(option: Option, value: Any) -> Any:
    """Convert convenient forms of `value` (a ``timedelta``, a list as text, a level in lower case) before the check."""
    kinds = _kinds(option.type)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PathLike):
        return str(value)
    if option.name == "broker_url" and value is None:
        return ""
    if option.name in _URLS and isinstance(value, (list, tuple)):
        return ";".join(value)
    if option.name == "result_expires" and value is None:
        return 0.0
    if option.name == "task_default_delivery_mode" and isinstance(value, str):
        return {"transient": 1, "persistent": 2}.get(value.lower(), value)
    if option.name in ("worker_loglevel", "worker_redirect_stdouts_level"):
        return _level(value)
    if list in kinds:
        if isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        if isinstance(value, (tuple, set, frozenset)):
            return list(value)
    if isinstance(value, Mapping) and not isinstance(value, dict):
        return dict(value)
    return value


def _level(value: Any) -> Any:
    if isinstance(value, str):
        return {"WARN": "WARNING"}.get(value.upper(), value.upper())
    if isinstance(value, int):
        return {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}.get(value, value)
    return value
