"""Recalls: what is parked in the broker and has been revoked comes back at once, rather than when it comes by.

1. Asks one consumer for the ids that are revoked, some hundred at a time, the loop turning in between.
2. Is told all that are remembered with each new connection, and when more queues are consumed: what was revoked before
   may be parked there.

Every worker asks, whoever holds what; one of them gets the message. What one worker parks while another asks is found
when that one hears of the revoke in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

from framework.api.loop import Loop
from framework.api.transport import Consumer, Delivery
from framework.exceptions import TransportError

#: Ids of one question: a millisecond or so for the broker, and for the loop.
_BATCH: Final = 250


class Recall:
    """Asks `consumer`, in the loop, until it is closed."""

    def __init__(
        self,
        loop: Loop,
        consumer: Consumer,
        take: Callable[[Sequence[Delivery]], object],
        lose: Callable[[TransportError], object],
    ) -> None:
        """`take` is called with what comes, `lose` when the connection turns out to be lost."""
        self._loop = loop
        self._consumer: Consumer | None = consumer
        self._take = take
        self._lose = lose
        #: The ids to ask for, in their order.
        self._wanted: dict[str, None] = {}
        self._asked = False

    def want(self, task_ids: Iterable[str]) -> None:
        """Ask for `task_ids` soon."""
        self._wanted.update(dict.fromkeys(task_ids))
        self._ask_soon()

    def close(self) -> None:
        """Ask for nothing more."""
        self._consumer = None

    def _ask_soon(self) -> None:
        if self._wanted and not self._asked:
            self._asked = True
            self._loop.call_soon(self._ask)

    def _ask(self) -> None:
        self._asked = False
        if self._consumer is None:
            return
        batch = list(islice(self._wanted, _BATCH))
        for task_id in batch:
            del self._wanted[task_id]
        try:
            # An id that cannot be encoded is no task's, and could not be sent.
            found = self._consumer.recall([task_id for task_id in batch if _is_text(task_id)])
            if found:
                self._take(found)
        except TransportError as error:
            self._lose(error)
            return
        self._ask_soon()


def _is_text(task_id: str) -> bool:
    try:
        task_id.encode()
    except UnicodeEncodeError:
        return False
    return True
