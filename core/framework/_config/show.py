"""Masks and formats settings for display and for monitors, and makes the JSON Schema of the config file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from framework._config.options import Option, options
from framework._config.settings import Settings
from framework.server_url import HIDDEN, hide, mask

if TYPE_CHECKING:
    from framework._config.conf import Conf


# Keys inside free tables (transport options, TLS options) have no declaration that marks them as secret.
_SECRET_KEY = re.compile(r"pass(word|wd|phrase)?$|secret|token|api_?key|credentials?$|^private_?key$", re.IGNORECASE)


def display_value(option: Option, value: Any) -> Any:
    """Return `value` for output: secrets masked, structs as tables, other non-JSON types as their repr."""
    if option.secret and value:
        return hide(str(value))
    return _clean(msgspec.to_builtins(value, enc_hook=repr))


def masked(conf: Conf, with_defaults: bool = False) -> dict[str, Any]:
    """Return the settings of `conf` by flat name: only those that are set, or all `with_defaults`."""
    config = conf.config
    found = {}
    for name, option in options().items():
        if with_defaults or config.origin(name).layer != "default":
            found[name] = display_value(option, conf[name])
    return found


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: HIDDEN
            if isinstance(key, str) and isinstance(item, str) and item and _SECRET_KEY.search(key)
            else _clean(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return mask(value) if isinstance(value, str) else value


# ---------------------------------------------------------------- the schema of the file


def json_schema() -> dict[str, Any]:
    """Return the schema of framework.toml (draft 2020-12)."""
    schema = msgspec.json.schema(Settings)
    definitions: dict[str, Any] = schema["$defs"]
    for option in options().values():
        properties = definitions[f"{option.table.capitalize()}Settings"]["properties"]
        if option.unused:
            schema_of_type = msgspec.json.schema(option.type)
            properties[option.key] = {"description": option.help, **schema_of_type, "default": option.default}
        if option.secret:
            properties[f"{option.key}_file"] = {"type": "string", "description": f"Read {option.key} from this file."}
        if option.name == "broker_url":
            url = properties["url"]
            del url["type"]
            url["anyOf"] = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    for name in ("queues", "exclude_queues"):
        # A list may be written as one string, "a,b", as on the command line.
        definitions["WorkerSettings"]["properties"][name]["anyOf"].append({"type": "string"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "framework.toml", **schema}
