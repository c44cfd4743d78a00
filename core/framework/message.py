"""Messages: Celery's task protocol 2 (and 1 on the way in), in kombu's JSON envelope.

A message has two shapes on its way through the worker, both of which `marshal` can carry to a child:

* ``bytes``: the JSON envelope of kombu's virtual transports (Redis, SQLite, memory):
  ``{"body": base64, "content-encoding", "content-type", "headers": {...}, "properties": {...}}``;
* `Parts`: what AMQP hands over already taken apart.

The worker's main process reads only the `Head` of either (`read_head`): the few headers it decides by.
The body is decoded where it runs (`read`, then `framework.wire.serialization`).

Source: the protocol as published by Celery 5 (task protocol 2) and kombu's virtual transports.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from framework.exceptions import MessageUndecodable

#: ``(headers, properties, content_type, content_encoding, body)``. Both dicts hold only what `marshal` can carry;
#: `properties` has the keys of the envelope's: correlation_id, reply_to, priority, delivery_info, ….
Parts: TypeAlias = tuple[dict[str, Any], dict[str, Any], str, str, bytes]

#: A message as the worker moves it about without looking inside.
Payload: TypeAlias = bytes | Parts

JSON: Final = "application/json"
UTF8: Final = "utf-8"


class DeliveryInfo(msgspec.Struct, gc=False):
    """Where a message was published to."""

    exchange: str | None = None
    routing_key: str | None = None
    redelivered: bool | None = None


class HeadProperties(msgspec.Struct, gc=False):
    """The message properties that the main process decides by."""

    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    delivery_info: DeliveryInfo | None = None


class HeadHeaders(msgspec.Struct, gc=False):
    """The task headers that the main process decides by; everything else stays undecoded."""

    task: str | None = None
    id: str | None = None
    shadow: str | None = None
    eta: str | None = None
    expires: str | float | None = None
    retries: int | None = None
    timelimit: tuple[float | None, float | None] | None = None
    ignore_result: bool | None = None
    redelivered: bool | None = None
    #: Ours: how often a broker that does not count by itself has handed this message out before.
    deliveries: int | None = None


class Head(msgspec.Struct, gc=False):
    """The part of a message that the main process reads."""

    headers: HeadHeaders = msgspec.field(default_factory=HeadHeaders)
    properties: HeadProperties = msgspec.field(default_factory=HeadProperties)


class Incoming(msgspec.Struct, gc=False):
    """A whole message, its body still encoded."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str
    content_encoding: str
    body: bytes


class Outgoing(msgspec.Struct, gc=False):
    """A message to publish.

    `exchange` ``""`` with `routing_key` = queue name goes straight to that queue. `expiration` is in milliseconds.
    `delivery_mode` 2 is persistent, 1 transient. `properties` are merged into the message's.
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
    """The JSON envelope, as read."""

    body: str = ""
    content_type: str = msgspec.field(name="content-type", default=JSON)
    content_encoding: str = msgspec.field(name="content-encoding", default=UTF8)
    headers: dict[str, Any] = msgspec.field(default_factory=dict)
    properties: dict[str, Any] = msgspec.field(default_factory=dict)


_decode_head = msgspec.json.Decoder(Head).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_encode = msgspec.json.Encoder().encode
#: What malformed bytes may raise: wrong JSON, wrong types, too many levels.
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


def read_head(payload: Payload) -> Head:
    """Decode the part of `payload` that the main process needs.

    Raises `MessageUndecodable` when it is no envelope, or a header it needs has a wrong type.
    """
    try:
        if type(payload) is bytes:
            return _decode_head(payload)
        headers, properties = payload[0], payload[1]
        return msgspec.convert({"headers": headers, "properties": properties}, Head)
    except _MALFORMED as error:
        raise MessageUndecodable(f"not a task message: {error}") from error


def read(payload: Payload) -> Incoming:
    """Take `payload` apart, leaving the body encoded. Raises `MessageUndecodable`."""
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
    """Return `payload` as a JSON envelope, whatever transport it came from (dead letters are kept in this form)."""
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
        },
    )


#: The header that counts how often a message was handed back by workers without its task, and says until when the last
#: one leaves it alone: ``{"times": 2, "until": 1763726400.5}``.
HANDED_BACK: Final = "handed_back"
#: Headers that belong to the deliveries a message has had, not to the message.
_WORN: Final = frozenset({"deliveries", "redelivered", "x-delivery-count", "x-death", HANDED_BACK})
#: Properties that publishing sets anew.
_TRANSPORTS_OWN: Final = frozenset({"body_encoding", "delivery_info", "delivery_tag", "delivery_mode", "priority"})


def again(payload: Payload, queue: str, changes: Mapping[str, Any] | None = None) -> Outgoing:
    """Return the message in `payload` as one for `queue` that was never delivered, `changes` made to its headers.

    Raises `MessageUndecodable`.
    """
    found = read(payload)
    headers = {name: value for name, value in found.headers.items() if name not in _WORN}
    priority = found.properties.get("priority")
    return Outgoing(
        body=found.body,
        headers={**headers, **(changes or {})},
        routing_key=queue,
        content_type=found.content_type,
        content_encoding=found.content_encoding,
        # Transports place a message by it.
        priority=priority if isinstance(priority, int) else None,
        properties={name: value for name, value in found.properties.items() if name not in _TRANSPORTS_OWN},
    )


def mark_redelivered(envelope: bytes, deliveries: int) -> bytes:
    """Return `envelope` with the redelivered flags set and our `deliveries` header at `deliveries`.

    Everything else, unknown keys included, stays as it was. Bytes that are no envelope come back unchanged:
    whoever takes them next will dead-letter them.
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


def delivery_count(envelope: bytes) -> int:
    """Return how often `envelope` was handed out before, by its `deliveries` header (0 when it says nothing)."""
    try:
        return _decode_head(envelope).headers.deliveries or 0
    except _MALFORMED:
        return 0
