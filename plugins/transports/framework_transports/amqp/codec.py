"""AMQP 0-9-1 encoding on the hot path: content headers, tables, publish and settlement frames.

1. `read_content_header` decodes a content header to headers and properties that `marshal` can encode.
2. `publish_frames` encodes one message; `settle_frame` an ack; `reject_frame` a reject.
3. py-amqp encodes and decodes all other frames (handshake, declarations).

py-amqp's general codec needs about 40 µs to decode a message's header and 60 µs to encode one. This code runs for each
of a task's twenty headers, so it is written for speed: one function a type, no streams.

Source: AMQP 0-9-1 specification, sections 4.2.3 to 4.2.6, with RabbitMQ's table of field types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812 - named like a class wherever it is caught
from typing import Any, Final, NamedTuple
from uuid import UUID

from framework.message import JSON, UTF8

#: Headers nested deeper than this are refused: decoding them would exhaust the stack.
DEPTH_MAX: Final = 32
FRAME_END: Final = 0xCE
#: Bytes a frame adds to its payload.
FRAME_OVERHEAD: Final = 8
SHORT_MAX: Final = 255

HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_U8 = Struct(">B").unpack_from
_I8 = Struct(">b").unpack_from
_U16 = Struct(">H").unpack_from
_I16 = Struct(">h").unpack_from
_U32 = Struct(">I").unpack_from
_I32 = Struct(">i").unpack_from
_U64 = Struct(">Q").unpack_from
_I64 = Struct(">q").unpack_from
_F32 = Struct(">f").unpack_from
_F64 = Struct(">d").unpack_from
_DECIMAL = Struct(">Bi").unpack_from

_pack_u8 = Struct(">B").pack
_pack_u16 = Struct(">H").pack
_pack_u32 = Struct(">I").pack
_pack_u64 = Struct(">Q").pack
_pack_i32 = Struct(">ci").pack
_pack_i64 = Struct(">cq").pack
_pack_f64 = Struct(">cd").pack
_pack_long = Struct(">cI").pack
_pack_frame = Struct(">BHI").pack
_pack_content = Struct(">HHQ").pack
_pack_settle = Struct(">BHIHHQBB").pack

#: Errors that decoding malformed bytes may raise.
MALFORMED: Final = (ValueError, IndexError, KeyError, StructError, OverflowError, RecursionError)


# ---------------------------------------------------------------- in


def _read_string(buf: bytes, at: int, _depth: int) -> tuple[str | bytes, int]:
    start = at + 4
    end = start + _U32(buf, at)[0]
    raw = buf[start:end]
    try:
        return raw.decode(), end
    except UnicodeDecodeError:
        return raw, end


def _read_bytes(buf: bytes, at: int, _depth: int) -> tuple[bytes, int]:
    end = at + 4 + _U32(buf, at)[0]
    return buf[at + 4 : end], end


def _read_void(_buf: bytes, at: int, _depth: int) -> tuple[None, int]:
    return None, at


def _read_bool(buf: bytes, at: int, _depth: int) -> tuple[bool, int]:
    return buf[at] != 0, at + 1


def _read_i32(buf: bytes, at: int, _depth: int) -> tuple[int, int]:
    return _I32(buf, at)[0], at + 4


def _reader(unpack: Callable[[bytes, int], tuple[Any, ...]], size: int) -> Callable[[bytes, int, int], tuple[Any, int]]:
    def read(buf: bytes, at: int, _depth: int) -> tuple[Any, int]:
        return unpack(buf, at)[0], at + size

    return read


def _read_decimal(buf: bytes, at: int, _depth: int) -> tuple[str, int]:
    # As text, like the JSON envelopes of other brokers: marshal cannot encode a Decimal.
    scale, value = _DECIMAL(buf, at)
    return str(Decimal(value).scaleb(-scale)), at + 5


def _read_timestamp(buf: bytes, at: int, _depth: int) -> tuple[str, int]:
    return datetime.fromtimestamp(_U64(buf, at)[0], UTC).isoformat(), at + 8


def _read_array(buf: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    if depth > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels")
    end = at + 4 + _U32(buf, at)[0]
    at += 4
    values = []
    while at < end:
        value, at = _READERS[buf[at]](buf, at + 1, depth + 1)
        values.append(value)
    return values, end


def _read_table(buf: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    if depth > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels")
    end = at + 4 + _U32(buf, at)[0]
    at += 4
    table: dict[str, Any] = {}
    readers = _READERS
    while at < end:
        start = at + 1
        at = start + buf[at]
        key = buf[start:at].decode(errors="backslashreplace")
        kind = buf[at]
        if kind == 0x56:  # void: half of a task's headers, not worth a call
            table[key] = None
            at += 1
        else:
            table[key], at = readers[kind](buf, at + 1, depth + 1)
    return table, end


_READERS: Final[dict[int, Callable[[bytes, int, int], tuple[Any, int]]]] = {
    ord("S"): _read_string,
    ord("x"): _read_bytes,
    ord("V"): _read_void,
    ord("t"): _read_bool,
    ord("I"): _read_i32,
    ord("i"): _reader(_U32, 4),
    ord("b"): _reader(_I8, 1),
    ord("B"): _reader(_U8, 1),
    ord("s"): _reader(_I16, 2),
    ord("U"): _reader(_I16, 2),
    ord("u"): _reader(_U16, 2),
    ord("l"): _reader(_I64, 8),
    ord("L"): _reader(_I64, 8),
    ord("f"): _reader(_F32, 4),
    ord("d"): _reader(_F64, 8),
    ord("D"): _read_decimal,
    ord("T"): _read_timestamp,
    ord("F"): _read_table,
    ord("A"): _read_array,
}


class ContentHeader(NamedTuple):
    """A decoded content header."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str
    content_encoding: str


def read_content_header(buf: bytes) -> ContentHeader:
    """Decode the payload of a content header frame. Raises one of `MALFORMED`."""
    flags = buf[12] << 8 | buf[13]
    at = 14
    content_type, content_encoding = JSON, UTF8
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    if flags & 0x8000:
        end = at + 1 + buf[at]
        content_type, at = buf[at + 1 : end].decode(errors="replace"), end
    if flags & 0x4000:
        end = at + 1 + buf[at]
        content_encoding, at = buf[at + 1 : end].decode(errors="replace"), end
    if flags & 0x2000:
        headers, at = _read_table(buf, at, 0)
    if flags & 0x1000:
        properties["delivery_mode"] = buf[at]
        at += 1
    if flags & 0x0800:
        properties["priority"] = buf[at]
        at += 1
    if flags & 0x0400:
        end = at + 1 + buf[at]
        properties["correlation_id"], at = buf[at + 1 : end].decode(errors="replace"), end
    if flags & 0x0200:
        end = at + 1 + buf[at]
        properties["reply_to"], at = buf[at + 1 : end].decode(errors="replace"), end
    if flags & 0x01FC:  # any rare property
        for bit, name in _RARE_PROPERTIES:
            if not flags & bit:
                continue
            if name == "timestamp":
                properties[name] = _U64(buf, at)[0]
                at += 8
            else:
                end = at + 1 + buf[at]
                properties[name], at = buf[at + 1 : end].decode(errors="replace"), end
    return ContentHeader(headers, properties, content_type, content_encoding)


_RARE_PROPERTIES: Final = (
    (0x0100, "expiration"),
    (0x0080, "message_id"),
    (0x0040, "timestamp"),
    (0x0020, "type"),
    (0x0010, "user_id"),
    (0x0008, "app_id"),
    (0x0004, "cluster_id"),
)


# ---------------------------------------------------------------- out


@lru_cache(maxsize=1024)
def short_string(text: str) -> bytes:
    """Encode `text` with its length in one byte. Raises `ValueError` over 255 bytes."""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) > SHORT_MAX:
        raise ValueError(f"{text[:40]!r}… has {len(raw)} bytes, AMQP allows {SHORT_MAX} there")
    return _pack_u8(len(raw)) + raw


def _once(text: str) -> bytes:
    """Encode a short string without the cache, because it is unlikely to occur again."""
    encoded: bytes = short_string.__wrapped__(text)
    return encoded


def _value(value: Any, depth: int) -> bytes:
    if value is None:
        return b"V"
    kind = type(value)
    if kind is str:
        raw: bytes = value.encode("utf-8", "surrogatepass")
        return _pack_long(b"S", len(raw)) + raw
    if kind is bool:
        return b"t\x01" if value else b"t\x00"
    if kind is int:
        if -0x80000000 <= value <= 0x7FFFFFFF:
            return _pack_i32(b"I", value)
        if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
            return _pack_i64(b"l", value)
        raise ValueError(f"the number {value} does not fit into 64 bits")
    if kind is float:
        return _pack_f64(b"d", value)
    if depth > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, (list, tuple)):
        raw = b"".join([_value(item, depth + 1) for item in value])
        return _pack_long(b"A", len(raw)) + raw
    if isinstance(value, Mapping):
        return b"F" + write_table(value, depth + 1)
    if isinstance(value, (bytes, bytearray)):
        return _pack_long(b"x", len(value)) + bytes(value)
    if isinstance(value, datetime):
        return _value(value.isoformat(), depth)
    if isinstance(value, (str, int, float)):  # subclasses: enumerations and the like
        plain = str(value) if isinstance(value, str) else int(value) if isinstance(value, int) else float(value)
        return _value(plain, depth)
    if isinstance(value, (Decimal, UUID, date, time)):
        return _value(str(value), depth)
    raise ValueError(f"a value of type {kind.__name__} cannot be sent in a header")


def write_table(table: Mapping[str, Any], depth: int = 0) -> bytes:
    """Encode a table. Raises `ValueError` for a value that a table cannot hold."""
    parts: list[bytes] = []
    add = parts.append
    for key, value in table.items():
        add(short_string(key))
        add(b"V" if value is None else _value(value, depth))
    raw = b"".join(parts)
    return _pack_u32(len(raw)) + raw


def write_properties(
    headers: Mapping[str, Any],
    content_type: str,
    content_encoding: str,
    delivery_mode: int,
    properties: Mapping[str, Any],
) -> bytes:
    """Encode property flags and values; leave out those of `properties` that AMQP does not have."""
    flags = 0xF000
    parts = [short_string(content_type), short_string(content_encoding), write_table(headers), _pack_u8(delivery_mode)]
    for bit, name in _PROPERTIES:
        value = properties.get(name)
        if value is None:
            continue
        flags |= bit
        if name == "priority":
            parts.append(_pack_u8(max(0, min(255, int(value)))))
        elif name == "timestamp":
            parts.append(_pack_u64(int(value)))
        else:
            parts.append(_once(str(value)))
    return _pack_u16(flags) + b"".join(parts)


_PROPERTIES: Final = ((0x0800, "priority"), (0x0400, "correlation_id"), (0x0200, "reply_to"), *_RARE_PROPERTIES)


def publish_frames(
    channel: int, exchange: str, routing_key: str, properties: bytes, body: bytes, frame_max: int, *, mandatory: bool
) -> bytes:
    """Return the frames of ``basic.publish`` with its content. Raises `ValueError` when the headers are too large."""
    method = (
        b"\x00\x3c\x00\x28\x00\x00"
        + short_string(exchange)
        + short_string(routing_key)
        + (b"\x01" if mandatory else b"\x00")
    )
    header = _pack_content(60, 0, len(body)) + properties
    capacity = frame_max - FRAME_OVERHEAD
    if len(header) > capacity:
        raise ValueError(f"its headers have {len(header)} bytes, this broker takes at most {capacity}")
    parts = [
        _pack_frame(1, channel, len(method)),
        method,
        b"\xce",
        _pack_frame(2, channel, len(header)),
        header,
        b"\xce",
    ]
    for start in range(0, len(body), capacity):
        chunk = body[start : start + capacity]
        parts += (_pack_frame(3, channel, len(chunk)), chunk, b"\xce")
    return b"".join(parts)


def settle_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return the frame of ``basic.ack``."""
    return _pack_settle(1, channel, 13, 60, 80, tag, multiple, FRAME_END)


def reject_frame(channel: int, tag: int, *, requeue: bool) -> bytes:
    """Return the frame of ``basic.reject``."""
    return _pack_settle(1, channel, 13, 60, 90, tag, requeue, FRAME_END)


def method_frame(channel: int, class_id: int, method_id: int, arguments: bytes) -> bytes:
    """Return the frame of any other method, with its encoded `arguments`."""
    payload = _pack_u16(class_id) + _pack_u16(method_id) + arguments
    return _pack_frame(1, channel, len(payload)) + payload + b"\xce"
