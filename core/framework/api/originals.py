"""The standard library as it was before a green library replaced parts of it.

1. `is_replaced` says whether a library has replaced `select`, whichever library it was and whoever had it do so.
2. `original` returns a module of the interpreter's own, written in C, as it was: for code that has to block its thread,
   to start one of the system's, or to use what the library took away.

No library is asked: a module written in C can be made a second time, and what replaces functions replaces those of the
first one only.
"""

from __future__ import annotations

import select
from functools import cache
from importlib import import_module, util
from types import BuiltinFunctionType, ModuleType
from typing import Any


def is_replaced() -> bool:
    """Say whether a green library has replaced `select`."""
    return not isinstance(select.select, BuiltinFunctionType)


def original(module: str) -> Any:
    """Return the module called `module`, ``select`` or ``_thread``, with everything that it had at first."""
    return _made_again(module) if is_replaced() else import_module(module)


@cache
def _made_again(name: str) -> ModuleType:
    spec = util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"this interpreter has no module {name}", name=name)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
