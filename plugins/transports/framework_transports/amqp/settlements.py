"""Settlements: the unacknowledged messages of a channel, and the fewest frames that settle them.

1. Keeps every unacknowledged delivery tag, in order (tags of a channel only rise).
2. Collects acks and rejects, in any order.
3. `frames` settles them: rejects one by one; acks of the oldest unbroken run in one frame (`multiple`), others singly.

An ack with `multiple` settles all tags up to its own, so it must not reach beyond the first unacknowledged message; and
rejects must be sent before it, or it would acknowledge the rejected messages.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from framework_transports.amqp.acknowledged import Mark
from framework_transports.amqp.codec import reject_frame, settle_frame

if TYPE_CHECKING:
    from framework_transports.amqp.parking import AmqpParking

#: Acks kept for the next connection: the most that may be in transit when a connection breaks.
_RECENT: Final = 2048


class Settlements:
    """The unacknowledged messages of one channel, and their pending settlements."""

    __slots__ = ("_acked", "_rejected", "_settled", "_unsettled", "parking", "recent")

    def __init__(self) -> None:
        #: Unsettled tags, oldest first; a tag settled out of order stays until all older ones are settled.
        self._unsettled: deque[int] = deque()
        #: Settled out of order, still in `_unsettled`.
        self._settled: set[int] = set()
        self._acked: list[int] = []
        self._rejected: list[tuple[int, bool]] = []
        #: Marks of the last acknowledged messages; the broker may not have received these acks.
        self.recent: deque[Mark] = deque(maxlen=_RECENT)
        #: Parks deliveries of this channel; None: they cannot be parked.
        self.parking: AmqpParking | None = None

    def __len__(self) -> int:
        """Return the number of unacknowledged messages."""
        return len(self._unsettled) - len(self._settled) - len(self._acked) - len(self._rejected)

    def add(self, tag: int) -> None:
        """Add an incoming message."""
        self._unsettled.append(tag)

    def ack(self, tag: int) -> None:
        """Acknowledge message `tag` with the next frames."""
        self._acked.append(tag)

    def reject(self, tag: int, requeue: bool) -> None:
        """Requeue or drop message `tag` with the next frames."""
        self._rejected.append((tag, requeue))

    @property
    def pending(self) -> bool:
        """Whether `frames` has something to send."""
        return bool(self._acked or self._rejected)

    def frames(self, channel: int) -> bytes:
        """Return the frames of all pending settlements, and clear these."""
        acked, rejected = self._acked, self._rejected
        settled, unsettled = self._settled, self._unsettled
        self._acked, self._rejected = [], []
        out = [reject_frame(channel, tag, requeue=requeue) for tag, requeue in rejected]
        settled.update(acked)
        settled.update(tag for tag, _ in rejected)
        floor = 0
        while unsettled and unsettled[0] in settled:
            floor = unsettled.popleft()
            settled.remove(floor)
        run = [tag for tag in acked if tag <= floor]
        if len(run) == 1:
            out.append(settle_frame(channel, run[0], multiple=False))
        elif run:
            # Not `floor` itself: it may have been settled earlier, and the broker refuses an unknown tag.
            out.append(settle_frame(channel, max(run), multiple=True))
        if len(run) != len(acked):
            out += [settle_frame(channel, tag, multiple=False) for tag in acked if tag > floor]
        return b"".join(out)
