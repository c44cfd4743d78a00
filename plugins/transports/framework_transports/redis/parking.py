"""The parked messages of one consumer's queues.

1. Has the server watch the sorted sets of parked messages, like the queues themselves: a change by another client
   pushes one wake-up. While nothing is parked, the consumer sends no command for it.
2. Requeues due messages with a script, to the front of their queue, a bounded number at a time, by the server's clock.
   Any number of workers may run it at once.
3. Keeps the next due time from the script's reply, and runs the script again at that time.
4. Recalls the messages parked under some keys, with a script that leases them to the consumer.

A change by this connection pushes nothing and ends the watch, so the script runs again after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Final

from framework_drivers.redis.resp import WATCH_NEXT, Command, ScriptCall
from framework_transports.redis.consumed_queue import ConsumedQueue
from framework_transports.redis.scripts import script

#: Due messages that one script call moves in each queue: enough for any pool, few enough not to block the server.
BATCH: Final = 500


class RedisParking:
    """Tracks, requeues and recalls the parked messages of the consumed queues."""

    def __init__(self, *, watched: bool) -> None:
        """`watched`: the server pushes changes; otherwise every fetch runs the script."""
        self._watched = watched
        #: The consumed queues by the key of their parked messages.
        self._queues: dict[bytes, ConsumedQueue] = {}
        #: Queues whose parked messages may have changed since the script's last reply.
        self._stale: dict[ConsumedQueue, None] = {}
        #: The next due time of each queue in which messages are parked, on the clock of `monotonic`.
        self._due: dict[ConsumedQueue, float] = {}
        self._called: list[ConsumedQueue] = []
        self._recall_keys: list[str] | None = None
        #: The next due time; None: nothing is parked.
        self.due_at: float | None = None

    def add(self, consumed: ConsumedQueue) -> None:
        """Track the parked messages of `consumed`."""
        self._queues[consumed.parked.encode()] = consumed
        self._stale[consumed] = None
        self._recall_keys = None

    def remove(self, consumed: ConsumedQueue) -> None:
        """Track the parked messages of `consumed` no more."""
        del self._queues[consumed.parked.encode()]
        self._stale.pop(consumed, None)
        self._due.pop(consumed, None)
        self._recall_keys = None
        self.due_at = min(self._due.values(), default=None)

    def changed(self, names: Iterable[bytes] | None) -> None:
        """Note that other clients have changed the keys `names`; None: any key."""
        for name in self._queues if names is None else names:
            if name in self._queues:
                self._stale[self._queues[name]] = None

    def change(self, consumed: ConsumedQueue) -> None:
        """Note that this connection changes the parked messages of `consumed`."""
        if consumed.parked.encode() in self._queues:
            self._stale[consumed] = None

    @property
    def stale(self) -> bool:
        """Whether parked messages may have changed since the script's last reply."""
        return bool(self._stale)

    @property
    def due(self) -> bool:
        """Whether the script for due messages must run now."""
        return bool(self._stale) or (self.due_at is not None and monotonic() >= self.due_at)

    def recall(self, consumer: str, lease: int, sequence: int, keys: Sequence[str]) -> ScriptCall:
        """Return the script call that leases the messages parked under `keys` to `consumer`, for `lease` ms."""
        queues = self._queues.values()
        if self._recall_keys is None:
            self._recall_keys = [
                key
                for consumed in queues
                for key in (consumed.parked, consumed.parked_payloads, consumed.lease, consumed.leases)
            ]
        wanted = [key for key in keys if key and "\n" not in key]
        width = max(len(consumed.lists) for consumed in queues)
        return ScriptCall(script("recall"), self._recall_keys, (consumer, lease, sequence, width, *wanted))

    def add_due_calls(self, commands: list[Command]) -> int:
        """Add the script for due messages to `commands`, once for each queue; return the index of the first reply."""
        now = monotonic()
        due = [consumed for consumed, at in self._due.items() if at <= now and consumed not in self._stale]
        self._called = called = [*self._stale, *due]
        self._stale = {}
        if self._watched:
            # The watch comes first, so that the server pushes a change between the two.
            commands += (WATCH_NEXT, ("EXISTS", *(consumed.parked for consumed in called)))
        for consumed in called:
            keys = (consumed.parked, consumed.parked_payloads, *consumed.lists)
            commands.append(ScriptCall(script("due"), keys, (len(consumed.lists), BATCH)))
        return len(commands) - len(called)

    def apply_replies(self, replies: Sequence[Any]) -> list[ConsumedQueue]:
        """Read the replies of the script, and return the queues that received due messages."""
        filled: list[ConsumedQueue] = []
        for consumed, (moved, wait) in zip(self._called, replies, strict=False):
            self._due.pop(consumed, None)
            if wait >= 0:
                self._due[consumed] = monotonic() + wait / 1000
            if moved or not self._watched:
                self._stale[consumed] = None
            if moved:
                filled.append(consumed)
        self.due_at = min(self._due.values(), default=None)
        return filled
