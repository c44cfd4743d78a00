"""The JSON Schema of the config file, made from `Settings`."""

from __future__ import annotations

from typing import Any

import msgspec

from framework._config.options import options
from framework._config.settings import Settings


def json_schema() -> dict[str, Any]:
    """Return the schema of framework.toml (draft 2020-12)."""
    schema = msgspec.json.schema(Settings)
    definitions: dict[str, Any] = schema["$defs"]
    for option in options().values():
        if option.secret:
            table = definitions[f"{option.table.capitalize()}Settings"]
            table["properties"][f"{option.key}_file"] = {
                "type": "string",
                "description": f"Read {option.key} from this file.",
            }
        if option.name == "broker_url":
            url = definitions["BrokerSettings"]["properties"]["url"]
            del url["type"]
            url["anyOf"] = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    for name in ("queues", "exclude_queues"):
        # A list may be written as one string, "a,b", as on the command line.
        definitions["WorkerSettings"]["properties"][name]["anyOf"].append({"type": "string"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "framework.toml", **schema}
