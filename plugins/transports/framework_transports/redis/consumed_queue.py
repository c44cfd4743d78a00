"""One consumed queue, and its deliveries.

1. `ConsumedQueue` holds the keys of a queue, collects settlements until the next round trip, and keeps them until the
   one after. It parks messages for a duration, because this machine's clock may differ from the server's.
2. `RedisDelivery` is a leased message; settling it adds its field to the queue's settlements. Settling twice is
   harmless: the server ignores messages that are no longer leased.
3. `BroadcastDelivery` is a message from a channel: it needs no acknowledgement.
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
#: The number of a queue's parked messages that one key can find.
ALIKE: Final = 8


class ConsumedQueue:
    """A queue that the consumer consumes from, or did, with its pending settlements."""

    __slots__ = (
        "acks",
        "active",
        "consumer",
        "drop",
        "lease",
        "leases",
        "lists",
        "name",
        "parked",
        "parked_payloads",
        "parks",
        "place",
        "pushed",
        "requeues",
        "script_keys",
        "sent_acks",
        "sent_parks",
        "sent_requeues",
        "watch",
    )  # fmt: skip

    def __init__(self, name: str, keys: Keys, consumer: str) -> None:
        self.name = name
        #: The commands that drop the queue when it is consumed no more: those of a worker's own queue.
        self.drop: tuple[Command, ...] = ()
        self.consumer = consumer
        self.parked = keys.parked(name)
        self.parked_payloads = keys.parked_payloads(name)
        self.lists = keys.lists(name)
        self.lease = keys.lease(name, consumer)
        self.leases = keys.leases(name)
        #: The command that has the server watch the queue.
        self.watch: Command = ("EXISTS", *self.lists)
        #: Its keys of the script that reserves; they change with the lease.
        self.script_keys: tuple[str, ...] = ()
        #: Its place among the queues that are consumed, in the order in which they were added.
        self.place = 0
        #: Messages may wait in it. Otherwise it was empty when the server began to watch it, and has pushed nothing.
        self.active = False
        #: The server has pushed a change since the last command that watches.
        self.pushed = False
        #: Fields of the lease hash to delete with the next round trip.
        self.acks: list[Argument] = []
        #: Fields to requeue, each followed by the new payload, or by nothing to keep the payload.
        self.requeues: list[Argument] = []
        #: Fields to park, each with its due time (s since the epoch) and its key.
        self.parks: list[tuple[str, float, str]] = []
        #: The settlements sent last, to repeat if the connection is lost before the reply.
        self.sent_acks: list[Argument] = []
        self.sent_requeues: list[Argument] = []
        self.sent_parks: list[tuple[str, float, str]] = []

    def settlements(self, commands: list[Command]) -> None:
        """Move the pending settlements into `commands`."""
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
        return ScriptCall(script("park"), (lease, self.parked, self.parked_payloads), args)

    def move_lease(self, commands: list[Command], new_lease: str, names: Sequence[Argument]) -> None:
        """Add commands that repeat the last settlements and then move the leased messages to the hash `new_lease`.

        `names`: the lost consumer, the new one, the lease in ms, and the fields to keep. Repeating the commands on the
        next connection is harmless: fields are never reused, and settled messages are no longer leased.
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
    """A leased message."""

    __slots__ = ("consumed", "field")

    def __init__(self, payload: bytes, consumed: ConsumedQueue, field: str) -> None:
        self.payload = payload
        self.queue = consumed.name
        # Decoding costs more than all the rest here, and few messages are redelivered.
        self.deliveries = delivery_count(payload) if _COUNT_HEADER in payload else 0
        self.consumed = consumed
        self.field = field

    def ack(self) -> None:
        """Delete the message with the next round trip."""
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
        """Put the message back to the front, unchanged."""
        self.consumed.requeues += (self.field, b"")

    def park(self, until: float, key: str = "") -> bool:
        """Move the message to the parked messages with the next round trip."""
        # park.lua puts a line break between a key and its number.
        self.consumed.parks.append((self.field, until, "" if "\n" in key else key))
        return True


class BroadcastDelivery(Delivery):
    """This subscriber's copy of a message from a channel."""

    __slots__ = ("requeue_local",)

    def __init__(self, payload: bytes, queue: str, requeue_local: Callable[[BroadcastDelivery], object]) -> None:
        self.payload = payload
        self.queue = queue
        self.deliveries = 0
        self.requeue_local = requeue_local

    def ack(self) -> None:
        """Do nothing: the server keeps no copy."""

    def reject(self, *, requeue: bool) -> None:
        """Drop the message, or have this consumer fetch it again if `requeue`."""
        if requeue:
            self.requeue_local(self)
