"""The consumer: fetches from queues under a lease, on one connection.

1. `fetch` sends what is settled and reserves more in one round trip. A reserved message moves from its list into
   this consumer's lease hash within one script, so no moment exists in which it is nowhere.
2. When the queues run empty, the same round trip has the server watch their keys (``CLIENT TRACKING``): the next
   message pushes one wake-up down the connection, which makes `fileno` readable. Until then `fetch` asks for nothing.
3. `heartbeat` renews the leases, brings back what dead workers left, and asks the server for a sign of life.
4. A queue on a fan-out exchange is a subscription; its messages come down the same connection.
5. `adopt` moves what a lost connection had on loan to this one, each queue's in one step. A command that the lost one
   sent and that comes late finds nothing; what it still takes comes back when the old lease lapses.
6. A server without pushes (older than Redis 6) is asked again every `poll_interval`.
7. Parked messages that have come due are put back by the same round trip; see `RedisParking`.

Where a push has been swallowed while reading something else, `RedisConnection.ring` makes the descriptor readable
again.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections import deque
from collections.abc import Collection, Sequence
from time import monotonic
from typing import Any, Final, NoReturn

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost, TransportError
from framework_drivers.redis.resp import (
    Command,
    Push,
    RedisConnection,
    RedisConnectionSettings,
    ScriptCall,
    ServerError,
    packer,
)
from framework_drivers.redis.url import RedisAddress
from framework_transports._leases import OVERSLEPT
from framework_transports.redis.consumed_queue import BroadcastDelivery, ConsumedQueue, RedisDelivery
from framework_transports.redis.keys import Keys
from framework_transports.redis.options import RedisOptions
from framework_transports.redis.parking import RedisParking
from framework_transports.redis.reaper import reap, take_over, uptime
from framework_transports.redis.router import RedisRouter
from framework_transports.redis.scripts import script
from framework_transports.redis.server_timer import ServerTimer

logger = logging.getLogger(__name__)

#: How often one `fetch` looks again because somebody else changed the queues while it looked.
_LOOKS: Final = 3
_SCRIPTS: Final = ("reserve", "requeue", "release", "renew", "restore", "takeover", "adopt", "park", "due", "recall")
#: Most seconds between two looks for what Celery workers left behind.
_TAKE_OVER_EVERY: Final = 60.0
#: Seconds for which leases that lapsed are left alone after the server was away: nobody could renew them, and who is
#: alive comes back within this time.
_GRACE: Final = 5.0


class RedisConsumer(Consumer):
    """Fetches from any number of queues."""

    def __init__(
        self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys, options: RedisOptions
    ) -> None:
        self._keys = keys
        self._options = options
        self.heartbeat_interval = options.lease / 3
        self._lease = int(options.lease * 1000)
        self._id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._consumed: dict[str, ConsumedQueue] = {}
        #: Queues no longer consumed from, whose messages may still be on loan.
        self._retired: dict[str, ConsumedQueue] = {}
        self._order: list[ConsumedQueue] = []
        self._script_keys: list[str] = []
        self._watched: tuple[str, ...] = ()
        self._subscriptions: dict[bytes, list[str]] = {}
        self._broadcasts: deque[BroadcastDelivery] = deque()
        self._sequence = 1
        self._first = 0
        #: The queues were empty when the server began to watch them, and nothing was pushed since.
        self._quiet = False
        self._pushed = False
        #: The last fetch found fewer than it wanted: the next one probably will too.
        self._short = True
        self._renewed = self._next_take_over = monotonic()
        self._reap_from = 0.0
        self._router = RedisRouter(keys)
        self._pack = packer()
        self._connection = RedisConnection(addresses, settings, self._on_push)
        self._ticker: ServerTimer | None = None
        try:
            self._connection.load([script(name) for name in _SCRIPTS])
            self._reap_from = monotonic() + _GRACE - min(_GRACE, uptime(self._connection, _GRACE))
            if not self._connection.watch_keys():
                key = f"framework.tick.{self._id}"
                self._ticker = ServerTimer(addresses, settings, key, options.poll_interval)
            self._parking = RedisParking(watched=self._ticker is None)
        except TransportError:
            self._connection.close()
            raise

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over what `lost` had on loan."""
        if not isinstance(lost, RedisConsumer):
            return ()
        self._sequence = max(self._sequence, lost._sequence)
        self._reap_from = monotonic() + _GRACE
        wanted: dict[tuple[str, bytes], Delivery] = {}
        adopted: list[Delivery] = []
        for delivery in deliveries:
            if isinstance(delivery, RedisDelivery):
                wanted[delivery.queue, delivery.field.encode()] = delivery
            elif isinstance(delivery, BroadcastDelivery):
                delivery.give_back = self._give_back
                adopted.append(delivery)
        consumed_queues = [*lost._consumed.values(), *lost._retired.values()]
        commands: list[Command] = []
        calls: list[int] = []
        for consumed in consumed_queues:
            consumed.lease = self._keys.lease(consumed.name, lost._id)
            new_lease = self._keys.lease(consumed.name, self._id)
            fields = [field for queue, field in wanted if queue == consumed.name]
            consumed.hand_over(commands, new_lease, (lost._id, self._id, self._lease, *fields))
            calls.append(len(commands) - 1)
            consumed.lease = new_lease
            # Until the queue is added, if it is.
            self._retired[consumed.name] = consumed
        replies = self._run(commands) if commands else []
        for consumed, call in zip(consumed_queues, calls, strict=True):
            adopted += [wanted[consumed.name, field] for field in replies[call]]
        # What it had is ours: its end must not settle it again.
        lost._consumed, lost._retired = {}, {}
        return adopted

    # ------------------------------------------------------------ queues

    def add_queue(self, queue: Queue) -> None:
        """Bind `queue` and consume from it; what dead workers had on loan from it is brought back at once."""
        name = queue.name
        if name in self._consumed or any(name in names for names in self._subscriptions.values()):
            return
        if queue.exchange.type == "fanout" and queue.exchange.name:
            self._subscribe(queue)
            return
        self._declare(queue)
        self._consumed[name] = (
            self._retired.pop(name) if name in self._retired else ConsumedQueue(name, self._keys, self._id)
        )
        self._arrange()
        self.heartbeat()

    def _declare(self, queue: Queue) -> None:
        commands = self._router.declare([queue])
        try:
            if commands:
                self._connection.run(commands)
        except ServerError as error:
            # A full server binds nothing. A queue that is bound already can be consumed from: that makes room.
            bound = ("SISMEMBER", self._keys.bindings(queue.exchange.name), self._keys.member(queue))
            if not (error.passing and self._connection.call(*bound)):
                self._refused(error)

    def _subscribe(self, queue: Queue) -> None:
        if self._ticker is not None:
            raise TransportError(
                f"queue {queue.name!r} is bound to the fan-out exchange {queue.exchange.name!r}, "
                "which a worker can only consume from on Redis 6 or newer"
            )
        pattern = self._keys.subscription(queue)
        self._subscriptions.setdefault(pattern.encode(), []).append(queue.name)
        self._declare(queue)
        # The confirmation is a push; the answer to what follows it is proof enough.
        self._connection.send(self._pack(("PSUBSCRIBE", pattern)))
        self._connection.call("PING")

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; what was fetched stays on loan."""
        consumed = self._consumed.pop(name, None)
        if consumed is not None:
            self._retired[name] = consumed
            self._arrange()
        for pattern, names in list(self._subscriptions.items()):
            if name in names:
                names.remove(name)
                if not names:
                    del self._subscriptions[pattern]
                    self._connection.send(self._pack(("PUNSUBSCRIBE", pattern)))
                    self._connection.call("PING")

    def _arrange(self) -> None:
        consumed_queues = list(self._consumed.values())
        if self._options.queue_order_strategy == "sorted":
            consumed_queues.sort(key=lambda consumed: consumed.name)
        self._order = consumed_queues
        self._first = 0
        self._parking.arrange(consumed_queues)
        self._script_keys = [
            key for consumed in consumed_queues for key in (*consumed.lists, consumed.lease, consumed.leases)
        ]
        self._watched = ("EXISTS", *(key for consumed in consumed_queues for key in consumed.lists))
        self._quiet = False

    # ------------------------------------------------------------ fetching

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Settle and reserve in one round trip; when the queues were empty and still are, only settle."""
        if self._ticker is not None:
            self._ticker.drain()
        if self._parking.pressing:
            self._quiet = False
        if self._quiet or not self._order:
            self._connection.drain()
            commands = self._settlements()
            if commands:
                self._run(commands)
        found: list[Delivery] = []
        self._hand_out(found, limit)
        if not self._quiet and self._order and len(found) < limit:
            self._reserve(found, limit)
            self._hand_out(found, limit)
        if self._ticker is not None and len(found) < limit:
            self._ticker.arm()
        return found

    def _hand_out(self, found: list[Delivery], limit: int) -> None:
        while self._broadcasts and len(found) < limit:
            found.append(self._broadcasts.popleft())

    def _reserve(self, found: list[Delivery], limit: int) -> None:
        """Reserve until `found` holds `limit` deliveries or the queues are empty and watched."""
        watch = self._short and self._ticker is None
        for _ in range(_LOOKS):
            commands = self._settlements()
            looked = self._parking.look(commands) if self._parking.pressing else None
            commands.append(self._reserve_call(limit - len(found)))
            if watch:
                commands.append(self._watched)
            self._pushed = False
            replies = self._run(commands)
            if looked is not None:
                self._parking.learn(replies[looked])
                self.due_at = self._parking.due_at
            self._lend(replies[-2] if watch else replies[-1], found)
            self._short = len(found) < limit
            if not self._short or self._ticker is not None:
                return
            if watch and replies[-1] == 0 and not (self._pushed or self._parking.stale):
                self._quiet = True
                return
            watch = True
        # Others are busy with these queues: come back soon, but let the loop turn.
        self._connection.ring()

    def _reserve_call(self, limit: int) -> ScriptCall:
        fair = self._options.queue_order_strategy == "round_robin"
        first = self._first
        if fair:
            self._first = (first + 1) % len(self._order)
        lists = len(self._order[0].lists)
        args = (self._id, limit, self._lease, self._sequence, lists, first, 1 if fair else 0)
        return ScriptCall(script("reserve"), self._script_keys, args)

    def _lend(self, groups: list[list[Any]], found: list[Delivery]) -> None:
        sequence = self._sequence
        for group in groups:
            consumed = self._order[group[0]]
            suffix = f":{group[1]}"
            for payload in group[2:]:
                found.append(RedisDelivery(payload, consumed, f"{sequence}{suffix}"))
                sequence += 1
        self._sequence = sequence

    def _on_push(self, push: Push) -> None:
        kind = push[0]
        if kind == b"invalidate":
            self._quiet = False
            self._pushed = True
            self._parking.changed(push[1])
        elif kind == b"pmessage":
            self._pushed = True
            for name in self._subscriptions.get(push[1], ()):
                self._broadcasts.append(BroadcastDelivery(push[3], name, self._give_back))

    def _give_back(self, delivery: BroadcastDelivery) -> None:
        self._broadcasts.appendleft(delivery)
        self._connection.ring()

    # ------------------------------------------------------------ settling

    def _settlements(self) -> list[Command]:
        commands: list[Command] = []
        if self._connection.closed:
            # Left where it is, for who adopts it.
            raise ConnectionLost(f"the connection to {self._connection.address.display} is closed")
        for consumed in self._consumed.values():
            if consumed.requeues:
                # The server pushes what others change, not what this connection puts back, and forgets the watch.
                self._quiet = False
                self._pushed = True
            if consumed.parks:
                self._quiet = False
                self._parking.stale = True
            consumed.settlements(commands)
        for consumed in self._retired.values():
            consumed.settlements(commands)
        return commands

    def _run(self, commands: list[Command]) -> list[Any]:
        try:
            return self._connection.run(commands)
        except ServerError as error:
            self._refused(error)

    def _refused(self, error: ServerError) -> NoReturn:
        if error.passing:
            # Nothing to do but to come again: what it refused to settle is settled then.
            self._connection.close()
            raise ConnectionLost(str(error)) from error
        raise error

    def flush(self) -> None:
        """Send settlements now."""
        self._pushed = False
        self._aside(self._settlements())

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Settle, and lease what is parked under `keys`, in one round trip."""
        found: list[Delivery] = []
        self._pushed = False
        commands = self._settlements()
        if self._order:
            commands.append(self._parking.recall(self._id, self._lease, self._sequence, keys))
            self._lend(self._aside(commands)[-1], found)
            if found:
                self._quiet = False
                self._parking.stale = True
                self._connection.ring()
        else:
            self._aside(commands)
        return found

    def _aside(self, commands: list[Command]) -> list[Any]:
        """Run `commands` outside of `fetch`: a wake-up that comes in meanwhile is passed on."""
        replies: list[Any] = []
        if commands:
            replies = self._run(commands)
        else:
            # Whatever made the descriptor readable must not make the loop spin.
            self._connection.drain()
        if self._pushed:
            self._connection.ring()
        return replies

    def fileno(self) -> int:
        """Return the descriptor that turns readable when there may be something."""
        return self._connection.fileno() if self._ticker is None else self._ticker.fileno()

    # ------------------------------------------------------------ staying alive

    def heartbeat(self) -> None:
        """Renew the leases; put back what dead workers left."""
        self._pushed = False
        consumed_queues = [*self._consumed.values(), *self._retired.values()]
        silent, self._renewed = monotonic() - self._renewed, monotonic()
        if not consumed_queues:
            self._aside([("PING",)])
            return
        names = [key for consumed in consumed_queues for key in (consumed.lease, consumed.leases)]
        if silent > self._options.lease:
            logger.warning(OVERSLEPT, self._options.lease, silent)
        lapsed = self._aside([ScriptCall(script("renew"), names, (self._id, self._lease))])[0]
        back = 0
        for consumed, consumers in zip(consumed_queues, lapsed, strict=True):
            for consumer in consumers if monotonic() >= self._reap_from else ():
                back += reap(self._connection, self._keys, consumed, consumer.decode())
        timeout = self._options.visibility_timeout
        if timeout and monotonic() >= self._next_take_over:
            self._next_take_over = monotonic() + min(timeout, _TAKE_OVER_EVERY)
            back += take_over(self._connection, self._keys, timeout)
        if back:
            # Our own changes push nothing, and a push from others may have been read on the way.
            self._quiet = False
            self._connection.ring()

    def close(self, *, requeue: bool) -> None:
        """Settle, give back what is on loan if `requeue`, disconnect. The rest comes back when its lease lapses."""
        try:
            if not self._connection.closed and self._connection.pid == os.getpid():
                commands = self._settlements()
                if requeue:
                    commands.extend(
                        ScriptCall(script("release"), (consumed.lease, consumed.leases, *consumed.lists), (self._id,))
                        for consumed in (*self._consumed.values(), *self._retired.values())
                    )
                if commands:
                    self._connection.run(commands)
        except ConnectionLost as error:
            logger.debug("Messages on loan come back when their lease lapses: %s", error)
        except TransportError as error:
            logger.error("Messages on loan come back when their lease lapses: %s", error)
        finally:
            self._connection.close()
            if self._ticker is not None:
                self._ticker.close()
