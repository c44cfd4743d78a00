"""Dead letters: their form in a queue.

1. `enclose` wraps a message that can never become a task, or must not run any more.
2. `read_dead_letter` reads a delivery from a dead-letter queue as a `DeadLetter`.
3. Messages that the broker itself moved there (by an AMQP dead-letter exchange) become dead letters with the broker's
   reason.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from framework.api.transport import Delivery
from framework.exceptions import MessageUndecodable
from framework.message import Incoming, Outgoing, Payload, again, as_envelope, read
from framework.wire.safe_repr import safe_repr

#: The body of a dead letter is the envelope of the original message.
CONTENT_TYPE: Final = "application/x-framework-envelope"


def enclose(delivery: Delivery, queue: str, reason: str, text: str, task: str | None, task_id: str | None) -> Outgoing:
    """Return the dead letter for `queue` with the message of `delivery`, a `reason` (one word) and a sentence."""
    return Outgoing(
        body=_envelope(delivery.payload),
        headers={
            "dead_letter": {
                "reason": reason,
                "text": text,
                "queue": delivery.queue,
                "time": time.time(),
                "deliveries": delivery.deliveries + 1,
            },
            # Not `task`: a worker that consumes this queue by mistake must not run it.
            "dead_task": task,
            "id": task_id,
        },
        routing_key=queue,
        content_type=CONTENT_TYPE,
        content_encoding="binary",
        correlation_id=task_id,
    )


def _envelope(payload: Payload) -> bytes:
    """Return `payload` as an envelope; AMQP values without a JSON form are kept as text."""
    try:
        return as_envelope(payload)
    except (TypeError, ValueError, OverflowError, RecursionError):
        headers, properties, content_type, content_encoding, body = payload
        plain = ({name: safe_repr(value) for name, value in part.items()} for part in (headers, properties))  # type: ignore[union-attr]
        raw = body if isinstance(body, bytes) else safe_repr(body).encode(errors="backslashreplace")
        return as_envelope((*plain, str(content_type), str(content_encoding), raw))  # type: ignore[arg-type]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message from a dead-letter queue."""

    #: The task's id and name, if the message has them.
    id: str | None
    task: str | None
    dead_letter_queue: str
    #: The queue that the message came from.
    queue: str | None
    #: A word, such as ``undecodable`` or ``max-deliveries``, and a sentence.
    reason: str
    text: str
    #: When it was moved to the dead-letter queue (Unix time, seconds).
    time: float | None
    #: How often it had been delivered.
    deliveries: int | None
    #: The original message in kombu's JSON envelope.
    envelope: bytes

    def message(self) -> Incoming:
        """Read the original message. Raises `MessageUndecodable`."""
        return read(self.envelope)

    def replayed(self, queue: str) -> Outgoing:
        """Return the original message for `queue`, without any trace of its deliveries. Raises `MessageUndecodable`."""
        return again(self.envelope, queue)


def read_dead_letter(delivery: Delivery) -> DeadLetter:
    """Return the dead letter in `delivery`, also for an unreadable message or one that a worker has not wrapped."""
    try:
        found = read(delivery.payload)
    except MessageUndecodable as error:
        return _dead_letter(delivery, {"reason": "undecodable", "text": str(error)}, None, None)
    headers = found.headers
    about = headers.get("dead_letter")
    if found.content_type == CONTENT_TYPE and isinstance(about, dict):
        return _dead_letter(delivery, about, headers.get("dead_task"), headers.get("id"), found.body)
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    about = {
        "reason": death.get("reason") or "unknown",
        "text": "moved here by the broker" if death else "published here by an unknown sender",
        "queue": death.get("queue"),
        "deliveries": death.get("count"),
    }
    return _dead_letter(delivery, about, headers.get("task"), headers.get("id"))


def _dead_letter(
    delivery: Delivery, about: dict[str, Any], task: Any, task_id: Any, envelope: bytes | None = None
) -> DeadLetter:
    when, count = about.get("time"), about.get("deliveries")
    return DeadLetter(
        id=_text(task_id),
        task=_text(task),
        dead_letter_queue=delivery.queue,
        queue=_text(about.get("queue")),
        reason=str(about.get("reason") or "unknown"),
        text=str(about.get("text") or ""),
        time=float(when) if isinstance(when, int | float) else None,
        deliveries=count if isinstance(count, int) else None,
        envelope=_envelope(delivery.payload) if envelope is None else envelope,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
