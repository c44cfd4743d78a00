"""Messages: Celery's task protocol 2 (incoming also 1), in kombu's JSON envelope.

A message has one of two shapes in the worker; `marshal` can pass both to a child:

* ``bytes``: the JSON envelope of kombu's virtual transports (Redis, SQLite, memory):
  ``{"body": base64, "content-encoding", "content-type", "headers": {...}, "properties": {...}}``;
* `Parts`: the separate parts of an AMQP message.

The worker's main process decodes only the `Head` of a message (`read_head`), the few headers that it decides by.
The process that runs the task decodes the body (`read`, then `framework.wire.serialization`).

Source: the protocol as published by Celery 5 (task protocol 2) and kombu's virtual transports.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from framework.exceptions import MessageUndecodable

#: ``(headers, properties, content_type, content_encoding, body)``. Both dicts hold only types that `marshal` supports;
#: `properties` has the same keys as in the envelope: correlation_id, reply_to, priority, delivery_info, ….
Parts: TypeAlias = tuple[dict[str, Any], dict[str, Any], str, str, bytes]

#: An undecoded message.
Payload: TypeAlias = bytes | Parts

JSON: Final = "application/json"
UTF8: Final = "utf-8"


#: Numbers of a message come from outside: a count fits into 32 bits, so that one more can be sent on any broker, and
#: no limit is longer than 30 years.
_Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 2)]
_Limit: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
_PRIORITY_MAX: Final = 255


class DeliveryInfo(msgspec.Struct, gc=False):
    """The exchange and routing key of a message, and whether it was redelivered."""

    exchange: str | None = None
    routing_key: str | None = None
    redelivered: bool | None = None


class HeadProperties(msgspec.Struct, gc=False):
    """The message properties that the main process reads."""

    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    delivery_info: DeliveryInfo | None = None


class HeadHeaders(msgspec.Struct, gc=False):
    """The task headers that the main process reads; the others stay undecoded."""

    task: str | None = None
    id: str | None = None
    shadow: str | None = None
    eta: str | None = None
    expires: str | float | None = None
    retries: _Count | None = None
    timelimit: tuple[_Limit | None, _Limit | None] | None = None
    ignore_result: bool | None = None
    redelivered: bool | None = None
    #: Our header: earlier deliveries of this message, for brokers that do not count them.
    deliveries: _Count | None = None


class Head(msgspec.Struct, gc=False):
    """The part of a message that the main process reads."""

    headers: HeadHeaders = msgspec.field(default_factory=HeadHeaders)
    properties: HeadProperties = msgspec.field(default_factory=HeadProperties)


class Incoming(msgspec.Struct, gc=False):
    """A message with decoded headers and an encoded body."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str
    content_encoding: str
    body: bytes


class Outgoing(msgspec.Struct, gc=False):
    """A message to publish.

    `exchange` ``""`` with `routing_key` = queue name goes straight to that queue. `expiration` is in milliseconds.
    `delivery_mode` 2 is persistent, 1 transient. `properties` are added to the properties of the message.
    """

    body: bytes
    headers: dict[str, Any]
    exchange: str = ""
    routing_key: str = ""
    exchange_type: str = "direct"
    content_type: str = JSON
    content_encoding: str = UTF8
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    expiration: int | None = None
    delivery_mode: int = 2
    properties: dict[str, Any] | None = None


class _Envelope(msgspec.Struct, gc=False):
    """The JSON envelope, decoded."""

    body: str = ""
    content_type: str = msgspec.field(name="content-type", default=JSON)
    content_encoding: str = msgspec.field(name="content-encoding", default=UTF8)
    headers: dict[str, Any] = msgspec.field(default_factory=dict)
    properties: dict[str, Any] = msgspec.field(default_factory=dict)


_decode_head = msgspec.json.Decoder(Head).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_encode = msgspec.json.Encoder().encode
#: Exceptions for malformed bytes: wrong JSON, wrong types, too deep nesting.
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


def read_head(payload: Payload) -> Head:
    """Decode the headers and properties of `payload` that the main process needs.

    Raises `MessageUndecodable` if `payload` is no envelope, or one of these headers has a wrong type.
    """
    try:
        if type(payload) is bytes:
            return _decode_head(payload)
        headers, properties = payload[0], payload[1]
        return msgspec.convert({"headers": headers, "properties": properties}, Head)
    except _MALFORMED as error:
        raise MessageUndecodable(f"not a task message: {error}") from error


def read(payload: Payload) -> Incoming:
    """Decode `payload` but not its body. Raises `MessageUndecodable`."""
    if type(payload) is not bytes:
        headers, properties, content_type, content_encoding, body = payload
        return Incoming(headers, properties, content_type, content_encoding, body)  # type: ignore[arg-type]
    try:
        envelope = _decode_envelope(payload)
        if envelope.properties.get("body_encoding") == "base64":
            body = base64.b64decode(envelope.body)
        else:
            body = envelope.body.encode()
    except (*_MALFORMED, binascii.Error) as error:
        raise MessageUndecodable(f"not a message envelope: {error}") from error
    return Incoming(envelope.headers, envelope.properties, envelope.content_type, envelope.content_encoding, body)


def to_envelope(message: Outgoing, delivery_tag: str) -> bytes:
    """Encode `message` as kombu's JSON envelope, with `delivery_tag` (unique, conventionally a uuid4)."""
    properties: dict[str, Any] = {
        "correlation_id": message.correlation_id,
        "reply_to": message.reply_to,
        "delivery_mode": message.delivery_mode,
        "delivery_info": {"exchange": message.exchange, "routing_key": message.routing_key},
        "priority": message.priority or 0,
        "body_encoding": "base64",
        "delivery_tag": delivery_tag,
    }
    if message.correlation_id is None:
        del properties["correlation_id"]
    if message.reply_to is None:
        del properties["reply_to"]
    if message.expiration is not None:
        properties["expiration"] = str(message.expiration)
    if message.properties:
        properties.update(message.properties)
    return _encode(
        {
            "body": base64.b64encode(message.body).decode("ascii"),
            "content-encoding": message.content_encoding,
            "content-type": message.content_type,
            "headers": message.headers,
            "properties": properties,
        }
    )


def as_envelope(payload: Payload) -> bytes:
    """Return `payload` of any transport as a JSON envelope, the form in which dead letters are stored."""
    if type(payload) is bytes:
        return payload
    headers, properties, content_type, content_encoding, body = payload
    return _encode(
        {
            "body": base64.b64encode(body).decode("ascii"),  # type: ignore[arg-type]
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": {**properties, "body_encoding": "base64"},  # type: ignore[dict-item]
        }
    )


#: Header of a message that workers without its task have requeued: how often, and the time (s since the epoch) before
#: which the last of them does not requeue it again: ``{"times": 2, "until": 1763726400.5}``.
HANDED_BACK: Final = "handed_back"
#: Headers about earlier deliveries of a message.
_DELIVERY_HEADERS: Final = frozenset({"deliveries", "redelivered", "x-delivery-count", "x-death", HANDED_BACK})
#: Properties that are set when a message is published.
_PUBLISHING_PROPERTIES: Final = frozenset(
    {"body_encoding", "delivery_info", "delivery_tag", "delivery_mode", "priority"}
)


def again(payload: Payload, queue: str, changes: Mapping[str, Any] | None = None) -> Outgoing:
    """Return the message in `payload` as a new message for `queue`, its headers updated with `changes`.

    Raises `MessageUndecodable`.
    """
    found = read(payload)
    headers = {name: value for name, value in found.headers.items() if name not in _DELIVERY_HEADERS}
    priority = found.properties.get("priority")
    return Outgoing(
        body=found.body,
        headers={**headers, **(changes or {})},
        routing_key=queue,
        content_type=found.content_type,
        content_encoding=found.content_encoding,
        # Transports choose the place in the queue by the argument `priority`, not by the properties.
        priority=min(max(priority, 0), _PRIORITY_MAX) if isinstance(priority, int) else None,
        properties={name: value for name, value in found.properties.items() if name not in _PUBLISHING_PROPERTIES},
    )


def mark_redelivered(envelope: bytes, deliveries: int) -> bytes:
    """Return `envelope` with the redelivered flags set and our `deliveries` header at `deliveries`.

    All other keys, also unknown ones, stay as they are. Bytes that are no envelope are returned unchanged: their next
    consumer moves them to the dead-letter queue.
    """
    try:
        document = msgspec.json.decode(envelope)
        headers = document.setdefault("headers", {})
        headers["redelivered"] = True
        headers["deliveries"] = deliveries
        document["properties"].setdefault("delivery_info", {})["redelivered"] = True
        return _encode(document)
    except (*_MALFORMED, AttributeError, KeyError, TypeError):
        return envelope


def sent_to(envelope: bytes, queue: str) -> bytes:
    """Return `envelope` as if it had been sent to `queue` alone, not through an exchange; bytes that are none as is."""
    try:
        document = msgspec.json.decode(envelope)
        document["properties"]["delivery_info"] = {"exchange": "", "routing_key": queue}
        return _encode(document)
    except (*_MALFORMED, KeyError, TypeError):
        return envelope


def delivery_count(envelope: bytes) -> int:
    """Return the number of earlier deliveries of `envelope`, from its `deliveries` header; 0 without the header."""
    try:
        return _decode_head(envelope).headers.deliveries or 0
    except _MALFORMED:
        return 0
