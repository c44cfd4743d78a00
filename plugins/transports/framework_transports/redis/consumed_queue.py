"""One consumed queue, and the messages taken from it.

1. `ConsumedQueue` names the keys of a queue, collects settlements until the next round trip, and keeps them until the
   one after. A message is parked for a length of time rather than until a time: this machine's clock need not be the
   server's.
2. `RedisDelivery` is a leased message; settling it notes its field in the lane. Settling twice is harmless: the server
   only acts on what is still on loan.
3. `BroadcastDelivery` came through a channel: nobody else has it, so there is nothing to acknowledge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from framework.api.transport import Delivery
from framework.message import delivery_count, mark_redelivered
from framework_drivers.redis.resp import Argument, Command, ScriptCall
from framework_transports.redis.keys import Keys
from framework_transports.redis.scripts import script

_COUNT_HEADER = b'"deliveries":'
#: So many parked messages of a queue can be found by one key.
ALIKE: Final = 8


class ConsumedQueue:
    """A queue that is, or was, consumed from."""

    __slots__ = (
        "acks", "consumer", "lease", "leases", "lists", "name", "parked", "parks",
        "requeues", "sent_acks", "sent_parks", "sent_requeues", "shelf",
    )  # fmt: skip

    def __init__(self, name: str, keys: Keys, consumer: str) -> None:
        self.name = name
        self.consumer = consumer
        self.parked = keys.parked(name)
        self.shelf = keys.shelf(name)
        self.lists = keys.lists(name)
        self.lease = keys.lease(name, consumer)
        self.leases = keys.leases(name)
        #: Fields of the lease hash to drop with the next round trip.
        self.acks: list[Argument] = []
        #: The same to put back, each followed by the new payload, or nothing for the one it has.
        self.requeues: list[Argument] = []
        #: The same to park, with the time (s since the epoch) until which, and the key.
        self.parks: list[tuple[str, float, str]] = []
        #: What went out last: it may not have been answered when the connection is lost.
        self.sent_acks: list[Argument] = []
        self.sent_requeues: list[Argument] = []
        self.sent_parks: list[tuple[str, float, str]] = []

    def settlements(self, commands: list[Command]) -> None:
        """Move what is to be settled into `commands`."""
        if self.acks:
            commands.append(("HDEL", self.lease, *self.acks))
            self.sent_acks = self.acks
            self.acks = []
        if self.requeues:
            commands.append(ScriptCall(script("requeue"), (self.lease, *self.lists), self.requeues))
            self.sent_requeues = self.requeues
            self.requeues = []
        if self.parks:
            commands.append(self._park(self.lease))
            self.sent_parks = self.parks
            self.parks = []

    def _park(self, lease: str) -> ScriptCall:
        now = time.time()
        args: list[Argument] = [self.consumer, ALIKE]
        for field, until, key in self.parks:
            args += (field, max(0, round((until - now) * 1000)), key)
        return ScriptCall(script("park"), (lease, self.parked, self.shelf), args)

    def hand_over(self, commands: list[Command], new_lease: str, names: Sequence[Argument]) -> None:
        """Add to `commands` what settles, once more, and then moves what is on loan to the lease hash `new_lease`.

        `names`: the lost consumer, the new one, the lease in ms, and the fields to keep. All of it may be repeated, on
        the next connection: fields are never used twice, and what is settled already is not on loan any more.
        """
        self.acks = [*self.sent_acks, *self.acks]
        self.requeues = [*self.sent_requeues, *self.requeues]
        self.parks = [*self.sent_parks, *self.parks]
        self.sent_acks, self.sent_requeues, self.sent_parks = [], [], []
        old_lease = self.lease
        if self.acks:
            commands.append(("HDEL", old_lease, *self.acks))
        if self.requeues:
            commands.append(ScriptCall(script("requeue"), (old_lease, *self.lists), self.requeues))
        if self.parks:
            commands.append(self._park(old_lease))
        commands.append(ScriptCall(script("adopt"), (old_lease, new_lease, self.leases, *self.lists), names))


class RedisDelivery(Delivery):
    """A message on loan."""

    __slots__ = ("consumed", "field")

    def __init__(self, payload: bytes, consumed: ConsumedQueue, field: str) -> None:
        self.payload = payload
        self.queue = consumed.name
        # Decoding costs more than everything else here, and few messages come back.
        self.deliveries = delivery_count(payload) if _COUNT_HEADER in payload else 0
        self.consumed = consumed
        self.field = field

    def ack(self) -> None:
        """Have the message dropped with the next round trip."""
        self.consumed.acks.append(self.field)

    def reject(self, *, requeue: bool) -> None:
        """Put the message back to the front, with the count raised, or drop it."""
        if requeue:
            payload = self.payload
            assert isinstance(payload, bytes)
            self.consumed.requeues += (self.field, mark_redelivered(payload, self.deliveries + 1))
        else:
            self.consumed.acks.append(self.field)

    def release(self) -> None:
        """Put the message back to the front as it was."""
        self.consumed.requeues += (self.field, b"")

    def park(self, until: float, key: str = "") -> bool:
        """Have the message moved to what comes due later."""
        # A line break would make one key another's second.
        self.consumed.parks.append((self.field, until, "" if "\n" in key else key))
        return True


class BroadcastDelivery(Delivery):
    """A message that every subscriber got a copy of."""

    __slots__ = ("give_back",)

    def __init__(self, payload: bytes, queue: str, give_back: Callable[[BroadcastDelivery], object]) -> None:
        self.payload = payload
        self.queue = queue
        self.deliveries = 0
        self.give_back = give_back

    def ack(self) -> None:
        """Do nothing: the broker has forgotten the message already."""

    def reject(self, *, requeue: bool) -> None:
        """Have this consumer, the only one with this copy, fetch it again; or drop it."""
        if requeue:
            self.give_back(self)
