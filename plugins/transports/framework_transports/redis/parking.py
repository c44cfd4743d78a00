"""What is parked in the queues of one consumer: when it comes due, putting it back then, and finding it before that.

1. Has the server watch the sorted sets of parked messages, like the queues themselves: a change by others pushes one
   wake-up. While nothing is parked, and nobody parks, nothing is asked.
2. Knows from the last look when the next message comes due, and asks again at that time and not before.
3. Looks with a script that puts what is due to the front of its queue, a bounded number at a time, on the server's
   clock. Any number of workers may look at once.
4. Recalls what is parked under some keys with a script that leases it to the consumer.

A change of our own pushes nothing, and the server forgets the watch with it: after one we look again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Final

from framework_drivers.redis.resp import Command, ScriptCall
from framework_transports.redis.consumed_queue import ConsumedQueue
from framework_transports.redis.scripts import script

#: Messages that one look puts back in each queue: enough for any pool, few enough not to hold the server up.
BATCH: Final = 500


class RedisParking:
    """Looks after the parked messages of the queues that are consumed from."""

    def __init__(self, *, watched: bool) -> None:
        """`watched`: the server pushes changes; otherwise every fetch looks."""
        self._watched = watched
        self._names: frozenset[bytes] = frozenset()
        self._watch: Command = ()
        self._look: ScriptCall | None = None
        self._recall_keys: list[str] = []
        self._width = 0
        #: What is known may not be true any more.
        self.stale = False
        #: When the next message comes due, as `monotonic` counts; None: none is parked.
        self.due_at: float | None = None

    def arrange(self, consumed_queues: Sequence[ConsumedQueue]) -> None:
        """Look after `consumed_queues` from now on."""
        names = [consumed.parked for consumed in consumed_queues]
        self._names = frozenset(name.encode() for name in names)
        self._watch = ("EXISTS", *names)
        keys = [key for consumed in consumed_queues for key in (consumed.parked, consumed.shelf, *consumed.lists)]
        self._width = len(consumed_queues[0].lists) if consumed_queues else 0
        self._look = ScriptCall(script("due"), keys, (self._width, BATCH)) if consumed_queues else None
        self._recall_keys = [
            key
            for consumed in consumed_queues
            for key in (consumed.parked, consumed.shelf, consumed.lease, consumed.leases)
        ]
        self.due_at = None
        self.stale = bool(consumed_queues)

    def changed(self, names: Iterable[bytes] | None) -> None:
        """Learn that others have changed the keys `names`; None: any."""
        if names is None or not self._names.isdisjoint(names):
            self.stale = self._look is not None

    @property
    def pressing(self) -> bool:
        """It is time to look."""
        return self.stale or (self.due_at is not None and monotonic() >= self.due_at)

    def recall(self, consumer: str, lease: int, sequence: int, keys: Sequence[str]) -> ScriptCall:
        """Return what leases the messages parked under `keys` to `consumer`, for `lease` ms."""
        wanted = [key for key in keys if key and "\n" not in key]
        return ScriptCall(script("recall"), self._recall_keys, (consumer, lease, sequence, self._width, *wanted))

    def look(self, commands: list[Command]) -> int:
        """Add a look to `commands`; return at which place its reply will be."""
        assert self._look is not None
        # Watched first: what changes between the two is pushed.
        commands += (self._watch, self._look)
        self.stale = False
        return len(commands) - 1

    def learn(self, reply: Sequence[Any]) -> None:
        """Take in the reply to a look."""
        moved, wait = reply
        self.due_at = None if wait < 0 else monotonic() + wait / 1000
        if moved or not self._watched:
            self.stale = True
