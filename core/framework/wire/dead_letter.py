"""Dead letters: what they look like in a queue.

1. `enclose` makes a letter of a message that can never become a task, or must not run any more.
2. `open_letter` reads one; `DeadLetter` is one as read.
3. A dead-letter queue may also be fed by the broker itself (an AMQP dead-letter exchange): such messages are letters
   whose reason is the broker's.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from framework.api.transport import Delivery
from framework.exceptions import MessageUndecodable
from framework.message import Incoming, Outgoing, Payload, again, as_envelope, read
from framework.wire.safe_repr import safe_repr

#: What the body of a dead letter is: one message envelope, as it was.
CONTENT_TYPE: Final = "application/x-framework-envelope"


def enclose(delivery: Delivery, queue: str, reason: str, text: str, task: str | None, task_id: str | None) -> Outgoing:
    """Return the letter for `queue` that holds the message of `delivery`, with the `reason` (a word) and a sentence."""
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
            # Not `task`: a worker that consumes this queue by mistake must not run the letter.
            "dead_task": task,
            "id": task_id,
        },
        routing_key=queue,
        content_type=CONTENT_TYPE,
        content_encoding="binary",
        correlation_id=task_id,
    )


def _envelope(payload: Payload) -> bytes:
    """Return `payload` as an envelope; what JSON cannot hold of it (AMQP can carry more) is kept as text."""
    try:
        return as_envelope(payload)
    except (TypeError, ValueError, OverflowError, RecursionError):
        headers, properties, content_type, content_encoding, body = payload
        plain = ({name: safe_repr(value) for name, value in part.items()} for part in (headers, properties))  # type: ignore[union-attr]
        raw = body if isinstance(body, bytes) else safe_repr(body).encode(errors="backslashreplace")
        return as_envelope((*plain, str(content_type), str(content_encoding), raw))  # type: ignore[arg-type]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter."""

    #: The task's id and name, as far as the message told.
    id: str | None
    task: str | None
    #: The dead-letter queue, and the queue that the message came from.
    box: str
    queue: str | None
    #: A word, such as ``undecodable`` or ``max-deliveries``, and a sentence.
    reason: str
    text: str
    #: When it was buried (Unix time, seconds).
    time: float | None
    #: How often it had been handed out.
    deliveries: int | None
    #: The message as it was, in kombu's JSON envelope.
    envelope: bytes

    def message(self) -> Incoming:
        """Take the message apart. Raises `MessageUndecodable`, which may be what it died of."""
        return read(self.envelope)

    def replayed(self, queue: str) -> Outgoing:
        """Return the message, to be published to `queue` as if it had never been tried. Raises `MessageUndecodable`."""
        return again(self.envelope, queue)


def open_letter(delivery: Delivery) -> DeadLetter:
    """Read the letter in `delivery`; what cannot be read at all is a letter too."""
    try:
        found = read(delivery.payload)
    except MessageUndecodable as error:
        return _letter(delivery, {"reason": "undecodable", "text": str(error)}, None, None)
    headers = found.headers
    about = headers.get("dead_letter")
    if found.content_type == CONTENT_TYPE and isinstance(about, dict):
        return _letter(delivery, about, headers.get("dead_task"), headers.get("id"), found.body)
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    about = {
        "reason": death.get("reason") or "unknown",
        "text": "put here by the broker" if death else "put here by somebody else",
        "queue": death.get("queue"),
        "deliveries": death.get("count"),
    }
    return _letter(delivery, about, headers.get("task"), headers.get("id"))


def _letter(
    delivery: Delivery, about: dict[str, Any], task: Any, task_id: Any, envelope: bytes | None = None
) -> DeadLetter:
    when, count = about.get("time"), about.get("deliveries")
    return DeadLetter(
        id=_text(task_id),
        task=_text(task),
        box=delivery.queue,
        queue=_text(about.get("queue")),
        reason=str(about.get("reason") or "unknown"),
        text=str(about.get("text") or ""),
        time=float(when) if isinstance(when, int | float) else None,
        deliveries=count if isinstance(count, int) else None,
        envelope=_envelope(delivery.payload) if envelope is None else envelope,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
