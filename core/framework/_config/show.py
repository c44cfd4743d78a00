"""Settings for people and monitors: secrets masked, everything printable."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from framework._config.options import Option, mask, options

if TYPE_CHECKING:
    from framework._config.conf import Conf

# Keys inside free tables (transport options, TLS options) have no declaration that could call them secret.
_SECRET_KEY = re.compile(r"pass(word|wd|phrase)?$|secret|token|api_?key|credentials?$|^private_?key$", re.IGNORECASE)
_MASK = "********"


def display_value(option: Option, value: Any) -> Any:
    """Return `value` for output: secrets masked, structs as tables, what JSON cannot carry as its repr."""
    if option.secret and value:
        return mask(str(value)) if "://" in str(value) else _MASK
    return _clean(msgspec.to_builtins(value, enc_hook=repr))


def masked(conf: Conf, with_defaults: bool = False) -> dict[str, Any]:
    """Return the settings of `conf` by flat name: those that somebody set, or all `with_defaults`."""
    config = conf.config
    found = {}
    for name, option in options().items():
        if with_defaults or config.origin(name).layer != "default":
            found[name] = display_value(option, conf[name])
    return found


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _MASK
            if isinstance(key, str) and isinstance(item, str) and item and _SECRET_KEY.search(key)
            else _clean(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, str) and "://" in value:
        return mask(value)
    return value
