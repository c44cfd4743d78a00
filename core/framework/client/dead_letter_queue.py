"""A box to read dead letters from, send them on their way again, or throw them away.

1. `DeadLetterQueue` borrows all letters of some queues from the broker. They stay there: whatever is not replayed or
   dropped is given back when the box is closed, or when this process dies.
2. A replayed message is published first, and its letter acknowledged when the broker has it: it is in two places for a
   moment, and never in none.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Sequence
from typing import Final

from framework.api.transport import Consumer, Delivery, Producer, Queue, Transport
from framework.exceptions import MessageUndecodable
from framework.wire.dead_letter import DeadLetter, read_dead_letter

#: Seconds without a message after which a box believes to have all there are.
_SILENCE: Final = 2.0
_BATCH: Final = 256


class DeadLetterQueue:
    """All letters of some dead-letter queues, on loan until the box is closed; a context manager."""

    def __init__(self, transport: Transport, names: Iterable[str]) -> None:
        """Borrow what waits in the queues `names`; those that do not exist are left alone. Raises `ConnectionLost`."""
        self._transport = transport
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._borrowed: list[tuple[DeadLetter, Delivery]] = []
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
            self._borrowed += [(read_dead_letter(delivery), delivery) for delivery in found]
            if found:
                deadline = time.monotonic() + _SILENCE
            elif len(self._borrowed) >= count or time.monotonic() >= deadline:
                break
            else:
                poll.poll(_SILENCE * 1000)

    @property
    def letters(self) -> list[DeadLetter]:
        """What is in the box."""
        return [letter for letter, _ in self._borrowed]

    def replay(self, letters: Iterable[DeadLetter], queue: str | None = None) -> list[tuple[DeadLetter, str]]:
        """Publish the messages of `letters` to the queues that they came from, else to `queue`.

        Returns those that had to stay, with the reason. Raises `TransportError` when the broker does not take one: it
        and the rest stay.
        """
        stayed: list[tuple[DeadLetter, str]] = []
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

    def drop(self, letters: Iterable[DeadLetter]) -> int:
        """Throw `letters` away; return how many that were. There is no undo."""
        taken = self._taken(letters)
        for _, delivery in taken:
            delivery.ack()
            self._forget(delivery)
        self._flush()
        return len(taken)

    def _taken(self, letters: Iterable[DeadLetter]) -> list[tuple[DeadLetter, Delivery]]:
        wanted = {id(letter) for letter in letters}
        return [pair for pair in self._borrowed if id(pair[0]) in wanted]

    def _forget(self, delivery: Delivery) -> None:
        self._borrowed = [pair for pair in self._borrowed if pair[1] is not delivery]

    def _flush(self) -> None:
        if self._consumer is not None:
            self._consumer.flush()

    def __enter__(self) -> DeadLetterQueue:
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
