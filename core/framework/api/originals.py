"""The standard library as it was before a green library replaced parts of it.

1. `is_replaced` returns whether any library has replaced `select`.
2. `original` returns a built-in C module as it was: for code that must block its thread, start a system thread, or use
   functions that the library removed.

This needs no support of the library: a C module can be created a second time, and a library patches only the first
instance.
"""

from __future__ import annotations

import select
from functools import cache
from importlib import import_module, util
from types import BuiltinFunctionType, ModuleType
from typing import Any


def is_replaced() -> bool:
    """Return whether a green library has replaced `select`."""
    return not isinstance(select.select, BuiltinFunctionType)


def original(module: str) -> Any:
    """Return the unpatched module called `module`: ``select`` or ``_thread``."""
    return _new_instance(module) if is_replaced() else import_module(module)


@cache
def _new_instance(name: str) -> ModuleType:
    spec = util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"this interpreter has no module {name}", name=name)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
