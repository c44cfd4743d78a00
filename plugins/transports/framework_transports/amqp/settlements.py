"""Settlements: which messages of a channel are on loan, and the fewest frames that settle what was decided.

1. Knows every delivery tag on loan, in order (tags of a channel only rise).
2. Collects acks and rejects as they are decided, in any order.
3. `frames` settles them: rejects one by one; acks of the oldest unbroken run in one frame (`multiple`), others singly.

An ack with `multiple` settles everything up to its tag, so it may only be used up to the first message that is
still on loan; and rejects must go out before it, or it would acknowledge what was rejected.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from framework_transports.amqp.acknowledged import Mark
from framework_transports.amqp.codec import reject_frame, settle_frame

if TYPE_CHECKING:
    from framework_transports.amqp.parking import AmqpParking

#: So many acks may be on their way when the connection breaks.
_RECENT: Final = 2048


class Settlements:
    """The loan book of one channel."""

    __slots__ = ("_acked", "_loans", "_rejected", "_settled", "parking", "recent")

    def __init__(self) -> None:
        #: Tags not known to be settled, oldest first; those settled out of order stay until the older ones are.
        self._loans: deque[int] = deque()
        #: Settled out of order, still in `_loans`.
        self._settled: set[int] = set()
        self._acked: list[int] = []
        self._rejected: list[tuple[int, bool]] = []
        #: Marks of what was acknowledged last; the broker may not have heard of it.
        self.recent: deque[Mark] = deque(maxlen=_RECENT)
        #: Parks what is on loan; None: nobody does.
        self.parking: AmqpParking | None = None

    def __len__(self) -> int:
        """Return how many messages are on loan."""
        return len(self._loans) - len(self._settled) - len(self._acked) - len(self._rejected)

    def lend(self, tag: int) -> None:
        """A message has come in."""
        self._loans.append(tag)

    def ack(self, tag: int) -> None:
        """Message `tag` is done with."""
        self._acked.append(tag)

    def reject(self, tag: int, requeue: bool) -> None:
        """Message `tag` goes back, or away."""
        self._rejected.append((tag, requeue))

    @property
    def pending(self) -> bool:
        """Whether `frames` has something to send."""
        return bool(self._acked or self._rejected)

    def frames(self, channel: int) -> bytes:
        """Return what must be sent to settle everything decided so far, and forget it."""
        acked, rejected = self._acked, self._rejected
        settled, loans = self._settled, self._loans
        self._acked, self._rejected = [], []
        out = [reject_frame(channel, tag, requeue=requeue) for tag, requeue in rejected]
        settled.update(acked)
        settled.update(tag for tag, _ in rejected)
        floor = 0
        while loans and loans[0] in settled:
            floor = loans.popleft()
            settled.remove(floor)
        run = [tag for tag in acked if tag <= floor]
        if len(run) == 1:
            out.append(settle_frame(channel, run[0], multiple=False))
        elif run:
            # Not `floor` itself, which may have been settled earlier: the broker does not know that tag any more.
            out.append(settle_frame(channel, max(run), multiple=True))
        if len(run) != len(acked):
            out += [settle_frame(channel, tag, multiple=False) for tag in acked if tag > floor]
        return b"".join(out)
