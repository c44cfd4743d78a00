"""The types that kombu's JSON adds to plain JSON: encoding and decoding.

An object with exactly the keys ``__type__`` and ``__value__`` is a datetime, date, time, decimal, uuid, bytes or base64
value, or of a type that the application has registered with kombu.
"""

from __future__ import annotations

import base64
import sys
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final


def _bytes(value: bytes) -> dict[str, Any]:
    try:
        return {"__type__": "bytes", "__value__": value.decode()}
    except UnicodeDecodeError:
        return {"__type__": "base64", "__value__": base64.b64encode(value).decode("ascii")}


_ENCODERS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: lambda value: {"__type__": "datetime", "__value__": value.isoformat()},
    date: lambda value: {"__type__": "date", "__value__": value.isoformat()},
    time: lambda value: {"__type__": "time", "__value__": value.isoformat()},
    Decimal: lambda value: {"__type__": "decimal", "__value__": str(value)},
    uuid.UUID: lambda value: {"__type__": "uuid", "__value__": {"hex": value.hex}},
    bytes: _bytes,
}

_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "datetime": datetime.fromisoformat,
    # Some senders encode a date with a time of day.
    "date": lambda value: datetime.fromisoformat(value).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: uuid.UUID(hex=value["hex"]),
    "bytes": lambda value: value.encode(),
    "base64": lambda value: base64.b64decode(value, validate=True),
}

_MARKED: Final = {"__type__", "__value__"}


def default(value: Any) -> Any:
    """Return the JSON form of `value`. Raises `TypeError` for a type without one."""
    own = getattr(value, "__json__", None)
    if own is not None:
        return own()
    encoder = _ENCODERS.get(type(value))
    if encoder is not None:
        return encoder(value)
    for kind, encoder in _ENCODERS.items():
        if isinstance(value, kind):
            return encoder(value)
    kombu_json = sys.modules.get("kombu.utils.json")
    if kombu_json is not None:
        try:
            return kombu_json.JSONEncoder().default(value)
        except TypeError:
            pass
    remedy = (
        "send a list"
        if isinstance(value, (set, frozenset))
        else "send plain values, or give the class a method __json__"
    )
    raise TypeError(f"a value of type {type(value).__name__} cannot be encoded as JSON: {remedy}")


def object_hook(value: dict[str, Any]) -> Any:
    """Return the value of a JSON object. Raises `ValueError` and the like for a malformed typed value."""
    if value.keys() != _MARKED:
        return value
    kind = value["__type__"]
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is not None:
        return decoder(value["__value__"])
    kombu_json = sys.modules.get("kombu.utils.json")
    if kombu_json is not None:
        return kombu_json.object_hook(value)
    raise ValueError(f"the typed value has the unknown type {kind!r}")
