"""The Lua scripts of this package, by name."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from framework_drivers.redis.resp import Script


@cache
def script(name: str) -> Script:
    """Return the script ``lua/<name>.lua``, with ``lua/shared.lua`` in front of it."""
    return Script(_text("shared") + _text(name))


@cache
def _text(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
