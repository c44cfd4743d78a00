"""Reads dead-letter queues, replays dead letters and drops them.

1. `DeadLetterQueue` reserves all messages of some queues. They return to their queues when it is closed, or when this
   process dies, unless they were replayed or dropped.
2. A replay publishes the message before it acknowledges the dead letter: a crash in between may leave a copy, but
   cannot lose the message.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Sequence
from typing import Final

from framework.api.transport import Consumer, Delivery, Producer, Queue, Transport
from framework.exceptions import MessageUndecodable
from framework.wire.dead_letter import DeadLetter, read_dead_letter
from framework.wire.identity import shared_queue

#: Seconds without a message after which the queues count as empty.
_SILENCE: Final = 2.0
_BATCH: Final = 256


class DeadLetterQueue:
    """All dead letters of some queues, unacknowledged until it is closed; a context manager."""

    def __init__(self, transport: Transport, names: Iterable[str]) -> None:
        """Fetch all messages of the queues `names`; a queue that does not exist is skipped. Raises `ConnectionLost`."""
        self._transport = transport
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._reserved: list[tuple[DeadLetter, Delivery]] = []
        queues = [Queue(name=name, routing_key=name) for name in dict.fromkeys(names)]
        sizes = transport.sizes(queues)
        # Empty queues too: a consumer restores the messages of a reader that has died.
        present = [queue for queue in queues if sizes.get(queue.name) is not None]
        if present:
            self._fetch(present, sum(sizes[queue.name] or 0 for queue in present))

    def _fetch(self, queues: Sequence[Queue], count: int) -> None:
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
            self._reserved += [(read_dead_letter(delivery), delivery) for delivery in found]
            if found:
                deadline = time.monotonic() + _SILENCE
            elif len(self._reserved) >= count or time.monotonic() >= deadline:
                break
            else:
                poll.poll(_SILENCE * 1000)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters that were neither replayed nor dropped."""
        return [dead for dead, _ in self._reserved]

    def replay(self, dead_letters: Iterable[DeadLetter], queue: str | None = None) -> list[tuple[DeadLetter, str]]:
        """Publish the messages of `dead_letters` to `queue`, or if that is None to the queues that they came from.

        Returns the dead letters that could not be replayed, with the reason. Raises `TransportError` when the broker
        refuses a message: it and all after it stay.
        """
        stayed: list[tuple[DeadLetter, str]] = []
        declared: set[str] = set()
        producer = self._producer = self._producer or self._transport.producer()
        for dead, delivery in self._selected(dead_letters):
            target = queue or dead.queue
            try:
                if target is None:
                    stayed.append((dead, "it does not name the queue that it came from; choose one with --to"))
                    continue
                if (shared := shared_queue(target)) != target:
                    reason = (
                        f"it is the copy of one worker from the broadcast queue {shared!r}; choose a queue with --to"
                    )
                    stayed.append((dead, reason))
                    continue
                message = dead.replayed(target)
            except MessageUndecodable as error:
                stayed.append((dead, str(error)))
                continue
            if target not in declared:
                self._declare(producer, target)
                declared.add(target)
            producer.publish([message])
            self._acknowledge(delivery)
        self._flush()
        return stayed

    def _declare(self, producer: Producer, name: str) -> None:
        queue = Queue(name=name, routing_key=name)
        # Only a missing queue: an existing one may have been declared with other arguments.
        if self._transport.sizes([queue])[name] is None:
            producer.declare([queue])

    def drop(self, dead_letters: Iterable[DeadLetter]) -> int:
        """Delete `dead_letters` from their queues for good; return their number."""
        selected = self._selected(dead_letters)
        for _, delivery in selected:
            self._acknowledge(delivery)
        self._flush()
        return len(selected)

    def _selected(self, dead_letters: Iterable[DeadLetter]) -> list[tuple[DeadLetter, Delivery]]:
        wanted = {id(dead) for dead in dead_letters}
        return [pair for pair in self._reserved if id(pair[0]) in wanted]

    def _acknowledge(self, delivery: Delivery) -> None:
        delivery.ack()
        self._reserved = [pair for pair in self._reserved if pair[1] is not delivery]

    def _flush(self) -> None:
        if self._consumer is not None:
            self._consumer.flush()

    def __enter__(self) -> DeadLetterQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Return the remaining messages to their queues, in their order, and disconnect. Idempotent."""
        reserved, self._reserved = self._reserved, []
        if self._consumer is not None:
            # Reversed: each goes to the front of its queue. Unlike `close`, `release` counts no delivery.
            for _, delivery in reversed(reserved):
                delivery.release()
            self._consumer.close(requeue=True)
            self._consumer = None
        if self._producer is not None:
            self._producer.close()
            self._producer = None
