"""Dead letters: what they look like, and a box to read them from, send them on their way again, or throw them away.

1. `enclose` makes a letter of a message that can never become a task, or must not run any more; `Letter` is one as
   read.
2. `LetterBox` borrows all letters of some queues from the broker. They stay there: whatever is not replayed or dropped
   is given back when the box is closed, or when this process dies.
3. A replayed message is published first, and its letter acknowledged when the broker has it: it is in two places for a
   moment, and never in none.
4. A dead-letter queue may also be fed by the broker itself (an AMQP dead-letter exchange): such messages are letters
   whose reason is the broker's.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from framework._saferepr import safe_repr
from framework.api.transport import Consumer, Delivery, Producer, Queue, Transport
from framework.exceptions import MessageUndecodable
from framework.message import Incoming, Outgoing, Payload, again, as_envelope, read

#: What the body of a dead letter is: one message envelope, as it was.
CONTENT_TYPE: Final = "application/x-framework-envelope"
#: Seconds without a message after which a box believes to have all there are.
_SILENCE: Final = 2.0
_BATCH: Final = 256


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


class Letter(msgspec.Struct, frozen=True, kw_only=True):
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


def open_letter(delivery: Delivery) -> Letter:
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
) -> Letter:
    when, count = about.get("time"), about.get("deliveries")
    return Letter(
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


class LetterBox:
    """All letters of some dead-letter queues, on loan until the box is closed; a context manager."""

    def __init__(self, transport: Transport, names: Iterable[str]) -> None:
        """Borrow what waits in the queues `names`; those that do not exist are left alone. Raises `ConnectionLost`."""
        self._transport = transport
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._borrowed: list[tuple[Letter, Delivery]] = []
        queues = [Queue(name=name, routing_key=name) for name in dict.fromkeys(names)]
        sizes = transport.sizes(queues)
        # An empty one too: what a reader had that died comes back when somebody looks.
        there = [queue for queue in queues if sizes.get(queue.name) is not None]
        if there:
            self._borrow(there, sum(sizes[queue.name] or 0 for queue in there))

    def _borrow(self, queues: Sequence[Queue], count: int) -> None:
        consumer = self._consumer = self._transport.consumer()
        consumer.prefetch(0)
        for queue in queues:
            consumer.add_queue(queue)
        consumer.heartbeat()
        poll = select.poll()
        poll.register(consumer.fileno(), select.POLLIN)
        deadline = time.monotonic() + _SILENCE
        while True:
            found = consumer.fetch(_BATCH)
            self._borrowed += [(open_letter(delivery), delivery) for delivery in found]
            if found:
                deadline = time.monotonic() + _SILENCE
            elif len(self._borrowed) >= count or time.monotonic() >= deadline:
                break
            else:
                poll.poll(_SILENCE * 1000)

    @property
    def letters(self) -> list[Letter]:
        """What is in the box."""
        return [letter for letter, _ in self._borrowed]

    def replay(self, letters: Iterable[Letter], queue: str | None = None) -> list[tuple[Letter, str]]:
        """Publish the messages of `letters` to the queues that they came from, else to `queue`.

        Returns those that had to stay, with the reason. Raises `TransportError` when the broker does not take one: it
        and the rest stay.
        """
        stayed: list[tuple[Letter, str]] = []
        there: set[str] = set()
        producer = self._producer = self._producer or self._transport.producer()
        for letter, delivery in self._taken(letters):
            target = queue or letter.queue
            try:
                if target is None:
                    stayed.append((letter, "it does not say which queue it came from; name one with --to"))
                    continue
                message = letter.replayed(target)
            except MessageUndecodable as error:
                stayed.append((letter, str(error)))
                continue
            if target not in there:
                self._provide(producer, target)
                there.add(target)
            producer.publish([message])
            delivery.ack()
            self._forget(delivery)
        self._flush()
        return stayed

    def _provide(self, producer: Producer, name: str) -> None:
        queue = Queue(name=name, routing_key=name)
        # One that exists may have been declared with arguments that are not known here.
        if self._transport.sizes([queue])[name] is None:
            producer.declare([queue])

    def drop(self, letters: Iterable[Letter]) -> int:
        """Throw `letters` away; return how many that were. There is no undo."""
        taken = self._taken(letters)
        for _, delivery in taken:
            delivery.ack()
            self._forget(delivery)
        self._flush()
        return len(taken)

    def _taken(self, letters: Iterable[Letter]) -> list[tuple[Letter, Delivery]]:
        wanted = {id(letter) for letter in letters}
        return [pair for pair in self._borrowed if id(pair[0]) in wanted]

    def _forget(self, delivery: Delivery) -> None:
        self._borrowed = [pair for pair in self._borrowed if pair[1] is not delivery]

    def _flush(self) -> None:
        if self._consumer is not None:
            self._consumer.flush()

    def __enter__(self) -> LetterBox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the rest back, in the order in which it lay there, and disconnect; harmless when repeated."""
        borrowed, self._borrowed = self._borrowed, []
        if self._consumer is not None:
            # Each one goes to the front, so the first comes last; unlike `close` this counts no delivery.
            for _, delivery in reversed(borrowed):
                delivery.release()
            self._consumer.close(requeue=True)
            self._consumer = None
        if self._producer is not None:
            self._producer.close()
            self._producer = None
