"""Serialization of message bodies and results.

1. `encode` and `decode`: JSON with the typed values that kombu adds, built in; every other serializer through kombu's
   registry, imported on first use.
2. `decode` refuses a body of an unaccepted type, too large (also after decompression) or nested too deep, before it
   decodes it.
3. `decode_task` reads the call of a message of protocol 2, of protocol 1, or of the hybrid of both.

Source: task protocols 1 and 2 as published by Celery 5; the JSON types of kombu.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

import msgspec

from framework.exceptions import ConfigError, ContentRefused, MessageTooLarge, MessageUndecodable
from framework.message import JSON, UTF8, Incoming
from framework.wire.compression import compress, decompress
from framework.wire.json_types import default, object_hook
from framework.wire.safe_repr import safe_repr

__all__ = ["MAX_NESTING", "decode", "decode_result", "decode_task", "dumps", "encode", "loads", "safe_repr"]

#: The default limit of nesting, in levels; about the depth that the parsers reach without exhausting the stack.
MAX_NESTING: Final = 1000
#: The prefix of a compressed result document; the MIME type and a zero byte follow.
COMPRESSED_MARK: Final = b"\x00celery-compressed\x00"

_CONTENT_TYPES: Final = {
    "json": JSON,
    "yaml": "application/x-yaml",
    "pickle": "application/x-python-serialize",
    "msgpack": "application/x-msgpack",
}
_fast_loads = msgspec.json.Decoder().decode


def _make_dumps() -> Callable[[Any], str]:
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the accelerator
        return json.JSONEncoder(default=default, check_circular=False).encode
    # `JSONEncoder.encode` builds this for every value, which costs more than encoding a small body.
    chunks = make(None, default, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True)
    return lambda obj: "".join(chunks(obj, 0))


_dumps = _make_dumps()


def dumps(obj: Any) -> bytes:
    """Encode `obj` as JSON; tuples become lists.

    Raises `TypeError` for a type that has no JSON form, `MessageTooLarge` for endless nesting.
    """
    try:
        return _dumps(obj).encode()
    except RecursionError:
        raise MessageTooLarge("the value is nested too deep for JSON, or contains itself") from None


def loads(data: bytes | str, max_nesting: int = MAX_NESTING) -> Any:
    """Decode JSON. Raises `MessageTooLarge` above `max_nesting` levels, `MessageUndecodable` for malformed JSON."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    # The number of brackets bounds the depth: most messages need no closer look.
    if raw.count(b"[") + raw.count(b"{") > max_nesting and _depth(raw) > max_nesting:
        raise _too_deep(max_nesting)
    try:
        if b"__type__" not in raw:
            try:
                return _fast_loads(raw)
            except msgspec.MsgspecError:
                pass  # the standard library accepts more: NaN, lone surrogates, 1e400
        return json.loads(raw.decode(), object_hook=object_hook)
    except RecursionError:
        raise _too_deep(max_nesting) from None
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError) as error:
        raise MessageUndecodable(f"the body is not JSON: {error}") from error


def _depth(raw: bytes) -> int:
    """Return how deep the brackets outside strings are nested."""
    outside = re.sub(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', b"", raw, flags=re.DOTALL)
    brackets = outside.translate(None, delete=_NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _STEPS)


def _too_deep(limit: int) -> MessageTooLarge:
    return MessageTooLarge(f"the body is nested deeper than the {limit:,} levels that max_nesting under [task] allows")


def encode(obj: Any, serializer: str = "json", compression: str | None = None) -> tuple[str, str, bytes, str | None]:
    """Return ``(content_type, content_encoding, body, MIME type of the compression or None)``.

    Raises `ConfigError` for an unknown serializer or compression, and the serializer's own errors.
    """
    if serializer == "json" or serializer == JSON:
        content_type, content_encoding, body = JSON, UTF8, dumps(obj)
    else:
        content_type, content_encoding, body = _encode_by_registry(obj, serializer)
    if compression is None:
        return content_type, content_encoding, body, None
    body, mime = compress(body, compression)
    return content_type, content_encoding, body, mime


def decode(
    body: bytes,
    content_type: str | None = JSON,
    content_encoding: str | None = UTF8,
    compression: str | None = None,
    *,
    accept: Iterable[str] | None = None,
    max_size: int | None = None,
    max_nesting: int = MAX_NESTING,
) -> Any:
    """Decode `body`. `compression` is the message header of that name.

    `accept` lists serializer names or MIME types (None: json only). `max_size` limits `body` in bytes, before and after
    decompression (None: no limit), `max_nesting` the levels of JSON. Raises `ContentRefused`, `MessageTooLarge` or
    `MessageUndecodable`.
    """
    kind = content_type or JSON
    if not accepted(kind, accept):
        wanted = ", ".join(accept) if accept is not None else "json"
        raise ContentRefused(
            f"the content type {kind!r} is not accepted (accept_content is {wanted}); "
            "add its serializer there if you trust every sender"
        )
    if max_size is not None and len(body) > max_size:
        raise MessageTooLarge(f"the body has {len(body):,} bytes; max_message_size under [task] allows {max_size:,}")
    if compression:
        body = decompress(body, compression, max_size)
    if kind == JSON:
        encoding = (content_encoding or UTF8).lower()
        if encoding in ("utf-8", "utf8", "us-ascii", "ascii", "binary"):
            return loads(body, max_nesting)
        try:
            return loads(body.decode(encoding), max_nesting)
        except (LookupError, ValueError) as error:  # ValueError: an impossible name of an encoding, or malformed bytes
            raise MessageUndecodable(f"the body is not {encoding}: {error}") from error
    return _decode_by_registry(body, kind, content_encoding or "binary")


def accepted(content_type: str, accept: Iterable[str] | None) -> bool:
    """Return whether `content_type` is one of `accept` (names or MIME types; None: json only)."""
    if accept is None:
        return content_type == JSON
    for name in accept:
        if name == content_type or _CONTENT_TYPES.get(name) == content_type:
            return True
        if "/" not in name and name not in _CONTENT_TYPES and _registered_type(name) == content_type:
            return True
    return False


def _registry() -> Any:
    """Return kombu's registry of serializers."""
    # Here: importing kombu takes tens of milliseconds, and most programs use only JSON.
    from kombu.serialization import registry

    return registry


def _registered_type(name: str) -> str | None:
    found = _registry().name_to_type.get(name)
    return None if found is None else str(found)


def _encode_by_registry(obj: Any, serializer: str) -> tuple[str, str, bytes]:
    # Here, for the same reason as in `_registry`.
    from kombu.exceptions import EncodeError, SerializerNotInstalled

    registry = _registry()
    name = registry.type_to_name.get(serializer, serializer) if "/" in serializer else serializer
    try:
        content_type, content_encoding, body = registry.dumps(obj, name)
    except SerializerNotInstalled:
        known = ", ".join(sorted(registry._encoders))
        extra = f" (pip install 'framework[{name}]')" if name in ("yaml", "msgpack") else ""
        raise ConfigError(f"the serializer {serializer!r} is not installed{extra}; installed are {known}") from None
    except EncodeError as error:
        raise TypeError(f"the value cannot be encoded as {name}: {error}") from error
    return content_type, content_encoding, body.encode() if isinstance(body, str) else body


def _decode_by_registry(body: bytes, content_type: str, content_encoding: str) -> Any:
    registry = _registry()
    if content_type not in registry.type_to_name:
        raise MessageUndecodable(f"no installed serializer reads the content type {content_type!r}")
    try:
        return registry.loads(body, content_type, content_encoding, accept={content_type})
    except RecursionError:
        raise MessageTooLarge("the body is nested too deep") from None
    except Exception as error:  # each library has its own errors, and the bytes come from outside
        raise MessageUndecodable(f"the body is not {content_type}: {error}") from error


def decode_message(
    incoming: Incoming,
    *,
    accept: Iterable[str] | None = None,
    max_size: int | None = None,
    max_nesting: int = MAX_NESTING,
) -> Any:
    """Decode the body of `incoming`; see `decode`."""
    return decode(
        incoming.body,
        incoming.content_type,
        incoming.content_encoding,
        incoming.headers.get("compression"),
        accept=accept,
        max_size=max_size,
        max_nesting=max_nesting,
    )


def decode_result(document: bytes, serializer: str = "json", accept: Iterable[str] | None = None) -> dict[str, Any]:
    """Decode a result document, compressed or not. Raises `MessageUndecodable` or `ContentRefused`."""
    found = decode_stored(document, serializer, accept)
    if not isinstance(found, dict):
        raise MessageUndecodable(f"a result document must be a mapping, not {type(found).__name__}")
    return found


def decode_stored(document: bytes, serializer: str = "json", accept: Iterable[str] | None = None) -> Any:
    """Decode any value from a result store, compressed or not. Raises as `decode_result`."""
    compression = None
    if document.startswith(COMPRESSED_MARK):
        mime, separator, document = document[len(COMPRESSED_MARK) :].partition(b"\x00")
        if not separator:
            raise MessageUndecodable("the result is marked as compressed, but does not name the method")
        compression = mime.decode("ascii", "replace")
    kind = _CONTENT_TYPES.get(serializer) or _registered_type(serializer) or serializer
    encoding = UTF8 if kind in (JSON, "application/x-yaml") else "binary"
    return decode(document, kind, encoding, compression, accept=accept if accept is not None else (serializer,))


def decode_task(
    incoming: Incoming,
    *,
    accept: Iterable[str] | None = None,
    max_size: int | None = None,
    max_nesting: int = MAX_NESTING,
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return ``(args, kwargs, embed)`` of the call in `incoming`; `embed` has callbacks, errbacks, chain, chord.

    For a protocol 1 or hybrid message, `incoming.headers` is replaced by the headers of protocol 2. Raises
    `MessageError`.
    """
    headers = incoming.headers
    body = decode_message(incoming, accept=accept, max_size=max_size, max_nesting=max_nesting)
    if "task" in headers:
        if isinstance(body, (list, tuple)):
            if len(body) != 3:
                raise MessageUndecodable(
                    f"not a task message: its body has {len(body)} parts, not [args, kwargs, embed]"
                )
            args, kwargs, embed = body
            return _call(args, kwargs, embed)
        if isinstance(body, Mapping) and "args" in body:
            fields = _from_protocol_1(body)
            incoming.headers = {**fields, **headers}
            return _call(body["args"], body.get("kwargs"), _embed_of(body))
        raise MessageUndecodable(f"not a task message: its body is {type(body).__name__}, not [args, kwargs, embed]")
    if not isinstance(body, Mapping) or "task" not in body or "id" not in body:
        raise MessageUndecodable(
            "neither a protocol 2 nor a protocol 1 task message: neither headers nor body name a task and an id"
        )
    args, kwargs, embed = _call(body.get("args"), body.get("kwargs"), _embed_of(body))
    fields = _from_protocol_1(body)
    fields["argsrepr"], fields["kwargsrepr"] = safe_repr(tuple(args)), safe_repr(kwargs)
    custom = {name: value for name, value in headers.items() if name != "compression"}
    incoming.headers = {**custom, **fields}
    return args, kwargs, embed


def _call(args: Any, kwargs: Any, embed: Any) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    if args is None:
        args = []
    elif not isinstance(args, list):
        if not isinstance(args, tuple):
            raise MessageUndecodable(f"not a task message: its args are {type(args).__name__}, not a list")
        args = list(args)
    if kwargs is None:
        kwargs = {}
    elif not isinstance(kwargs, dict):
        raise MessageUndecodable(f"not a task message: its kwargs are {type(kwargs).__name__}, not a mapping")
    if embed is None:
        embed = {}
    elif not isinstance(embed, dict):
        raise MessageUndecodable(f"not a task message: its embed is {type(embed).__name__}, not a mapping")
    return args, kwargs, embed


def _embed_of(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}


def _from_protocol_1(body: Mapping[str, Any]) -> dict[str, Any]:
    task, task_id = body.get("task"), body.get("id")
    limits = body.get("timelimit")
    return {
        "lang": "py",
        "task": task if task is None else str(task),
        "id": task_id if task_id is None else str(task_id),
        "eta": _with_zone(body.get("eta"), body.get("utc", True)),
        "expires": _with_zone(body.get("expires"), body.get("utc", True)),
        "group": body.get("taskset") or body.get("group"),
        "group_index": body.get("group_index"),
        "retries": body.get("retries") or 0,
        "timelimit": list(limits) if isinstance(limits, (list, tuple)) and len(limits) == 2 else [None, None],
        "root_id": task_id,
        "parent_id": None,
    }


def _with_zone(moment: Any, utc: Any) -> Any:
    """Return a local time of a protocol 1 message with its zone; any other value unchanged, to be refused later."""
    if not isinstance(moment, str) or utc:
        return moment
    try:
        return datetime.fromisoformat(moment).astimezone().isoformat()
    except (ValueError, OverflowError):
        return moment
