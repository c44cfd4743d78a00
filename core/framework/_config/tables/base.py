"""The building blocks of the tables: types of values, the description of an option, and the struct of a table.

Durations are in seconds.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"]
#: ``[<family>.<plugin name>]``: options of a plugin, checked against its own struct when it is loaded.
PluginTables = dict[str, dict[str, Any]]


def opt(
    help: str,  # noqa: A002 - the usual name of this argument
    *old: str,
    flag: tuple[str, ...] = (),
    hidden: tuple[str, ...] = (),
    value: Any = None,
    metavar: str | None = None,
    env: tuple[str, ...] = (),
    secret: bool = False,
    since: str | None = None,
) -> Meta:
    """Describe an option.

    `old`: older names. `flag`: spellings on the command line of `framework worker`; `hidden`: further spellings,
    accepted but not listed; `value`: the value that a flag without an argument sets. `env`: variables besides
    ``FRAMEWORK_<TABLE>_<KEY>``. `secret`: masked when shown, may be read from a file (``<key>_file``).
    `since`: the missing feature that the option waits for; the command line refuses the option.
    """
    extra = {
        "old": old,
        "flag": flag,
        "hidden": hidden,
        "value": value,
        "metavar": metavar,
        "env": env,
        "secret": secret,
        "since": since,
    }
    return Meta(description=help, extra=extra)


class Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A table of the config file."""
