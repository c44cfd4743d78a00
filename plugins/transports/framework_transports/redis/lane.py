"""One consumed queue, and the messages taken from it.

1. `Lane` names the keys of a queue and collects settlements until the next round trip.
2. `RedisDelivery` is a leased message; settling it notes its field in the lane. Settling twice is harmless: the server
   only acts on what is still on loan.
3. `BroadcastDelivery` came through a channel: nobody else has it, so there is nothing to acknowledge.
"""

from __future__ import annotations

from collections.abc import Callable

from framework.api.resp import Argument, Call, Command
from framework.api.transport import Delivery
from framework.message import delivery_count, mark_redelivered
from framework_transports.redis.keys import Keys
from framework_transports.redis.scripts import script

_COUNT_HEADER = b'"deliveries":'


class Lane:
    """A queue that is, or was, consumed from."""

    __slots__ = ("acks", "lease", "leases", "lists", "name", "requeues")

    def __init__(self, name: str, keys: Keys, consumer: str) -> None:
        self.name = name
        self.lists = keys.lists(name)
        self.lease = keys.lease(name, consumer)
        self.leases = keys.leases(name)
        #: Fields of the lease hash to drop with the next round trip.
        self.acks: list[Argument] = []
        #: The same to put back, each followed by the new payload, or nothing for the one it has.
        self.requeues: list[Argument] = []

    def settlements(self, commands: list[Command]) -> None:
        """Move what is to be settled into `commands`."""
        if self.acks:
            commands.append(("HDEL", self.lease, *self.acks))
            self.acks = []
        if self.requeues:
            commands.append(Call(script("requeue"), (self.lease, *self.lists), self.requeues))
            self.requeues = []


class RedisDelivery(Delivery):
    """A message on loan."""

    __slots__ = ("_field", "_lane")

    def __init__(self, payload: bytes, lane: Lane, field: str) -> None:
        self.payload = payload
        self.queue = lane.name
        # Decoding costs more than everything else here, and few messages come back.
        self.deliveries = delivery_count(payload) if _COUNT_HEADER in payload else 0
        self._lane = lane
        self._field = field

    def ack(self) -> None:
        """Have the message dropped with the next round trip."""
        self._lane.acks.append(self._field)

    def reject(self, *, requeue: bool) -> None:
        """Put the message back to the front, with the count raised, or drop it."""
        if requeue:
            payload = self.payload
            assert isinstance(payload, bytes)
            self._lane.requeues += (self._field, mark_redelivered(payload, self.deliveries + 1))
        else:
            self._lane.acks.append(self._field)

    def release(self) -> None:
        """Put the message back to the front as it was."""
        self._lane.requeues += (self._field, b"")


class BroadcastDelivery(Delivery):
    """A message that every subscriber got a copy of."""

    __slots__ = ("_give_back",)

    def __init__(self, payload: bytes, queue: str, give_back: Callable[[BroadcastDelivery], object]) -> None:
        self.payload = payload
        self.queue = queue
        self.deliveries = 0
        self._give_back = give_back

    def ack(self) -> None:
        """Do nothing: the broker has forgotten the message already."""

    def reject(self, *, requeue: bool) -> None:
        """Have this consumer, the only one with this copy, fetch it again; or drop it."""
        if requeue:
            self._give_back(self)
