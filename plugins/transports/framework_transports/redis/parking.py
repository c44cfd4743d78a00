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
        self._names: frozenset[bytes] = frozenset()
        self._watch: Command = ()
        self._due_call: ScriptCall | None = None
        self._recall_keys: list[str] = []
        self._width = 0
        #: Parked messages may have changed since the script's last reply.
        self.stale = False
        #: The next due time, on the clock of `monotonic`; None: nothing is parked.
        self.due_at: float | None = None

    def arrange(self, consumed_queues: Sequence[ConsumedQueue]) -> None:
        """Set the consumed queues."""
        names = [consumed.parked for consumed in consumed_queues]
        self._names = frozenset(name.encode() for name in names)
        self._watch = ("EXISTS", *names)
        keys = [
            key for consumed in consumed_queues for key in (consumed.parked, consumed.parked_payloads, *consumed.lists)
        ]
        self._width = len(consumed_queues[0].lists) if consumed_queues else 0
        self._due_call = ScriptCall(script("due"), keys, (self._width, BATCH)) if consumed_queues else None
        self._recall_keys = [
            key
            for consumed in consumed_queues
            for key in (consumed.parked, consumed.parked_payloads, consumed.lease, consumed.leases)
        ]
        self.due_at = None
        self.stale = bool(consumed_queues)

    def changed(self, names: Iterable[bytes] | None) -> None:
        """Note that other clients have changed the keys `names`; None: any key."""
        if names is None or not self._names.isdisjoint(names):
            self.stale = self._due_call is not None

    @property
    def due(self) -> bool:
        """Whether the script for due messages must run now."""
        return self.stale or (self.due_at is not None and monotonic() >= self.due_at)

    def recall(self, consumer: str, lease: int, sequence: int, keys: Sequence[str]) -> ScriptCall:
        """Return the script call that leases the messages parked under `keys` to `consumer`, for `lease` ms."""
        wanted = [key for key in keys if key and "\n" not in key]
        return ScriptCall(script("recall"), self._recall_keys, (consumer, lease, sequence, self._width, *wanted))

    def add_due_call(self, commands: list[Command]) -> int:
        """Add the script for due messages to `commands`; return the index of its reply."""
        assert self._due_call is not None
        # The watch comes first, so that the server pushes a change between the two.
        if self._watched:
            commands += (WATCH_NEXT, self._watch)
        commands.append(self._due_call)
        self.stale = False
        return len(commands) - 1

    def apply_reply(self, reply: Sequence[Any]) -> None:
        """Read the script's reply."""
        moved, wait = reply
        self.due_at = None if wait < 0 else monotonic() + wait / 1000
        if moved or not self._watched:
            self.stale = True
