"""Recall: fetches revoked messages that are parked in the broker, so that they end now and not at their eta.

1. Asks one consumer for revoked ids, in batches, one per turn of the loop.
2. Asks for all known ids with each new connection and each new queue: messages revoked before may be parked there.

Every worker asks for every revoked id; one worker gets the message. A message that one worker parks while another asks
is found when the first worker processes the revoke itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

from framework.api.loop import Loop
from framework.api.transport import Consumer, Delivery
from framework.exceptions import TransportError

#: Ids in one request: it takes the broker and the loop about a millisecond.
_BATCH: Final = 250


class Recall:
    """Recalls revoked messages over one consumer until closed. Used in the loop only."""

    def __init__(
        self,
        loop: Loop,
        consumer: Consumer,
        take: Callable[[Sequence[Delivery]], object],
        lose: Callable[[TransportError], object],
    ) -> None:
        """`take` is called with the recalled deliveries of each batch, `lose` with the error of a lost connection."""
        self._loop = loop
        self._consumer: Consumer | None = consumer
        self._take = take
        self._lose = lose
        #: Ids to ask for, in order.
        self._pending: dict[str, None] = {}
        self._scheduled = False

    def request(self, task_ids: Iterable[str]) -> None:
        """Ask for `task_ids` in the next turns of the loop."""
        self._pending.update(dict.fromkeys(task_ids))
        self._ask_soon()

    def close(self) -> None:
        """Stop asking."""
        self._consumer = None

    def _ask_soon(self) -> None:
        if self._pending and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._ask)

    def _ask(self) -> None:
        self._scheduled = False
        if self._consumer is None:
            return
        batch = list(islice(self._pending, _BATCH))
        for task_id in batch:
            del self._pending[task_id]
        try:
            # An id that cannot be encoded belongs to no task and could not be sent.
            # What was found, or nothing: a wake-up may have been read with the reply, so the caller has to fetch.
            self._take(self._consumer.recall([task_id for task_id in batch if _is_text(task_id)]))
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
