"""Exceptions as documents: ``{"exc_type", "exc_message", "exc_module"}``, as Celery's result stores keep them.

1. `encode_exception` names the class as peers look it up, and keeps the arguments: as values, or as their repr where
   the serializer has no form for them. The attributes follow in ``exc_attributes``, the reprs of those without a form
   in ``exc_missing``; peers ignore both.
2. `ExceptionInfo` is the `einfo` argument of a task's handlers.
3. `decode_exception` returns the exception. It imports nothing: the class must be an `Exception` of a loaded module, of
   `builtins` or of this package. Any other becomes an `UnknownError` that keeps the text. An ``__init__`` that does not
   take the arguments is not called; where attributes are missing, a subclass says so.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import MemberDescriptorType, TracebackType
from typing import Any, Final

from framework import exceptions
from framework.exceptions import UnknownError, wire_module
from framework.wire.safe_repr import safe_repr
from framework.wire.serialization import decode_stored, encode

#: Modules in which peers look up the classes of `framework.exceptions`.
_OURS: Final = frozenset({"celery.exceptions", "billiard.exceptions", "billiard.einfo", "framework.exceptions"})
_ARGUMENT_MAX: Final = 64 * 1024
#: The levels to which exceptions in attributes of exceptions are kept.
_NESTED_MAX: Final = 4
#: The key that marks the document of an exception that was returned, not raised.
_RETURNED: Final = "exc_returned"


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


def encode_exception(error: BaseException, serializer: str = "json") -> dict[str, Any]:
    """Return the document of `error`, in values that `serializer` can hold."""
    return _encode(error, serializer, _NESTED_MAX)


def encode_returned(error: BaseException, serializer: str) -> dict[str, Any]:
    """Return the document of an exception that is a return value, for `decode_returned`."""
    return {**encode_exception(error, serializer), _RETURNED: True}


def _encode(error: BaseException, serializer: str, levels: int) -> dict[str, Any]:
    kind = type(error)
    attributes: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, value in _attributes(error).items():
        if isinstance(value, BaseException) and levels:
            attributes[name] = _encode(value, serializer, levels - 1)
        elif _carries(serializer, value, _ARGUMENT_MAX):
            attributes[name] = value
        else:
            missing[name] = safe_repr(value)
    document: dict[str, Any] = {
        "exc_type": kind.__qualname__,
        "exc_message": [
            argument if _carries(serializer, argument) else safe_repr(argument, _ARGUMENT_MAX)
            for argument in error.args
        ],
        "exc_module": wire_module(kind),
    }
    if isinstance(error, BaseExceptionGroup) and levels:
        attributes["exceptions"] = [_encode(one, serializer, levels - 1) for one in error.exceptions]
        missing.pop("exceptions", None)
    if attributes:
        document["exc_attributes"] = attributes
    if missing:
        document["exc_missing"] = missing
    return document


def _attributes(error: BaseException) -> dict[str, Any]:
    """Return the attributes of `error` by name, those in slots included."""
    found = {
        name: value
        for base in type(error).__mro__
        for name, member in vars(base).items()
        # `obj` of an AttributeError is any object of the task.
        if isinstance(member, MemberDescriptorType) and _may_set(name) and name != "obj"
        if (value := getattr(error, name, None)) is not None
    }
    return found | {name: value for name, value in vars(error).items() if _may_set(name)}


def _may_set(name: object) -> bool:
    return isinstance(name, str) and (not name.startswith("__") or name == "__notes__")


def _carries(serializer: str, value: Any, longest: int | None = None) -> bool:
    """Return whether a reader gets `value` from `serializer`, in at most `longest` bytes."""
    if value is None or type(value) in (int, float, bool) or (type(value) is str and longest is None):
        return True
    try:
        body = encode(value, serializer)[2]
        found = decode_stored(body, serializer)
        # Not every exception is pickled with all that it has.
        whole = not isinstance(value, BaseException) or (vars(found), found.args) == (vars(value), value.args)
    except Exception:  # noqa: BLE001 - whatever a value raises, its error must be reported
        return False
    return whole and (longest is None or len(body) <= longest)


def decode_returned(value: Any) -> Any:
    """Return the return value `value`: the exception, if it is the document of one."""
    return decode_exception(value) if isinstance(value, dict) and value.get(_RETURNED) is True else value


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
        with suppress(Exception):  # the code of a user's class may raise anything
            return _restore(kind, args, document)
    return UnknownError(f"{name}({', '.join(map(safe_repr, args))})")


def _restore(kind: type[Exception], args: tuple[Any, ...], document: Mapping[str, Any]) -> Exception:
    """Return an exception of the class `kind` with what `document` says."""
    attributes, missing = (_mapping(document.get(key)) for key in ("exc_attributes", "exc_missing"))
    made: object = None
    if not attributes and not missing:
        with suppress(Exception):  # the __init__ of a user's class may raise anything
            made = kind(*args)
    if not isinstance(made, kind):
        # The __init__ takes something else, or would set other attributes.
        base = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        if issubclass(kind, BaseExceptionGroup):
            args = (attributes["message"], [decode_exception(one) for one in attributes["exceptions"]])
        found: Any = _incomplete(kind, missing, document) if missing else kind
        made = base.__new__(found, *args)
    assert isinstance(made, kind)
    made.args = args
    for name, value in attributes.items():
        if _may_set(name):
            nested = isinstance(value, Mapping) and {"exc_type", "exc_message", "exc_module"} <= value.keys()
            value = decode_exception(value) if nested else value
            if isinstance(getattr(kind, name, None), MemberDescriptorType):
                with suppress(AttributeError, TypeError):  # read-only ones follow from the arguments
                    setattr(made, name, value)
            else:
                vars(made)[name] = value
    return made


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _incomplete(kind: type[Exception], missing: Mapping[str, Any], document: Mapping[str, Any]) -> type[Exception]:
    """Return a subclass of `kind` whose `missing` attributes raise an `AttributeError` that says what they were."""

    def __getattr__(self: Exception, name: str) -> Any:  # noqa: N807 - the method of the class below
        if name in missing:
            raise AttributeError(
                f"the attribute {name!r} of this {kind.__name__} was not stored, as the result serializer cannot "
                f"hold it or it is too large; it was {missing[name]}"
            )
        raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")

    def __str__(self: Exception) -> str:  # noqa: N807 - as above
        try:
            return kind.__str__(self)
        except AttributeError:  # it shows a missing one
            return Exception.__str__(self)

    def __reduce__(self: Exception) -> Any:  # noqa: N807 - as above
        return decode_exception, (document,)

    return type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__getattr__": __getattr__,
            "__str__": __str__,
            "__reduce__": __reduce__,
        },
    )


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
