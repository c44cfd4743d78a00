"""Exceptions as documents: ``{"exc_type", "exc_message", "exc_module"}``, as Celery's result stores keep them.

1. `encode_exception` names the class as peers look it up, and keeps the arguments: as values, or as their repr where
   JSON has no form for them.
2. `ExceptionInfo` is the `einfo` argument of a task's handlers.
3. `decode_exception` returns the exception. It imports nothing: the class must be an `Exception` of a loaded module, of
   `builtins` or of this package. Any other becomes an `UnknownError` that keeps the text.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

from framework import exceptions
from framework.exceptions import UnknownError, wire_module
from framework.wire.safe_repr import safe_repr
from framework.wire.serialization import dumps

#: Modules in which peers look up the classes of `framework.exceptions`.
_OURS: Final = frozenset({"celery.exceptions", "billiard.exceptions", "billiard.einfo", "framework.exceptions"})
_ARGUMENT_MAX: Final = 64 * 1024


class ExceptionInfo(str):
    """The traceback of `exception` as text: the `einfo` argument of a task's handlers."""

    __slots__ = ("exception",)

    exception: BaseException

    @classmethod
    def of(cls, exception: BaseException, text: str) -> ExceptionInfo:
        """Return `text`, the traceback of `exception`."""
        made = cls(text)
        made.exception = exception
        return made

    @property
    def type(self) -> type[BaseException]:
        """The class of the exception."""
        return type(self.exception)

    @property
    def traceback(self) -> str:
        """The traceback as plain text."""
        return str(self)

    @property
    def tb(self) -> TracebackType | None:
        """The traceback as an object."""
        return self.exception.__traceback__


def encode_exception(error: BaseException) -> dict[str, Any]:
    """Return the document of `error`, in values that JSON can hold."""
    kind = type(error)
    return {
        "exc_type": kind.__qualname__,
        "exc_message": [_plain(argument) for argument in error.args],
        "exc_module": wire_module(kind),
    }


def _plain(argument: Any) -> Any:
    if argument is None or type(argument) in (str, int, float, bool):
        return argument
    try:
        dumps(argument)
    except Exception:  # noqa: BLE001 - whatever an argument raises, its error must be reported
        return safe_repr(argument, _ARGUMENT_MAX)
    return argument


def decode_exception(document: Any) -> BaseException:
    """Return the exception that `document` describes, else an `UnknownError`. Raises nothing."""
    if isinstance(document, BaseException):  # from serializers such as pickle
        return document
    if not isinstance(document, Mapping) or "exc_type" not in document:
        return UnknownError(safe_repr(document))
    name, module = str(document["exc_type"]), document.get("exc_module")
    message = document.get("exc_message")
    args: tuple[Any, ...]
    if isinstance(message, (list, tuple)):
        args = tuple(message)
    else:
        args = () if message is None else (message,)
    kind = _find(name, module if isinstance(module, str) else None)
    if kind is not None:
        try:
            made: object = kind(*args)
        except Exception:  # noqa: BLE001 - the __init__ of a user's class may raise anything
            made = None
        if isinstance(made, kind):
            return made
    return UnknownError(f"{name}({', '.join(map(safe_repr, args))})")


def _find(name: str, module: str | None) -> type[Exception] | None:
    if module in _OURS and isinstance(found := getattr(exceptions, name, None), type):
        return found if issubclass(found, Exception) else None
    holder: Any = builtins if module in (None, "builtins", "exceptions") else sys.modules.get(module or "")
    for part in name.split("."):
        # Not `getattr`: a module's __getattr__ may import.
        holder = getattr(holder, "__dict__", {}).get(part)
    if isinstance(holder, type) and issubclass(holder, Exception):
        return holder
    return None
