"""The consumer: fetches from queues under a lease, on one connection.

1. `fetch` sends settlements and reserves messages in one round trip. One script moves a reserved message from its list
   into this consumer's lease hash, so it is stored at every moment.
2. When a queue is empty, the same round trip has the server watch its keys (``CLIENT TRACKING``): the next message
   pushes one wake-up, which makes `fileno` readable. Until then the queue costs nothing: `fetch` reserves from the
   *active* queues only, those in which messages may wait.
3. `heartbeat` renews the leases, restores messages of dead workers, and checks the connection; it also looks whether a
   watched queue has filled without a push.
4. A queue on a fan-out exchange is a subscription; its messages arrive on the same connection. A worker's own queue for
   a broadcast queue is a list besides: for retries and what is handed back, and because a program that uses kombu and
   has not declared the exchange pushes its messages to the lists that are bound to it.
5. `adopt` moves the messages leased by a lost connection to this one, atomically for each queue. A late command of the
   lost connection finds no message; if it reserves others, they are restored when the old lease lapses.
6. A server without pushes (older than Redis 6) is polled every `poll_interval`.
7. The same round trip requeues parked messages that are due; see `RedisParking`.

A push that is read together with another reply stays noted until the next `fetch` reserves: until then `recall`,
`heartbeat` and the changes of queues make the descriptor readable again (`RedisConnection.wake`).
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from bisect import insort
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from time import monotonic
from typing import Any, Final, NoReturn

from framework.api.transport import Consumer, Delivery, Queue
from framework.exceptions import ConnectionLost, TransportError
from framework.message import sent_to
from framework_drivers.redis.resp import (
    WATCH_NEXT,
    Command,
    Push,
    RedisConnection,
    RedisConnectionSettings,
    ScriptCall,
    ServerError,
    packer,
)
from framework_drivers.redis.url import RedisAddress
from framework_transports._leases import LEASE_NOT_RENEWED
from framework_transports.redis.consumed_queue import BroadcastDelivery, ConsumedQueue, RedisDelivery
from framework_transports.redis.keys import Keys
from framework_transports.redis.options import RedisOptions
from framework_transports.redis.parking import RedisParking
from framework_transports.redis.reaper import reap, take_over, uptime, warn_of_eviction
from framework_transports.redis.router import RedisRouter
from framework_transports.redis.scripts import script
from framework_transports.redis.server_timer import ServerTimer

logger = logging.getLogger(__name__)

#: Logged when a queue had filled while the worker waited for the server to say so.
UNANNOUNCED: Final = (
    "Messages waited at %s although the server had announced none: a wake-up was lost, and they are fetched now. "
    "This is a defect of the worker or of the server: please report it"
)

#: Round trips of one `fetch` at most, when other clients change the queues during each.
_RESERVE_ATTEMPTS: Final = 3
_SCRIPTS: Final = ("reserve", "requeue", "release", "renew", "restore", "takeover", "adopt", "park", "due", "recall")
#: Most seconds between two checks for messages that Celery workers left unacknowledged.
_TAKE_OVER_EVERY: Final = 60.0
#: Seconds after an outage of the server in which lapsed leases stay untouched: no worker could renew its lease, and
#: live workers reconnect and renew within this time.
_GRACE: Final = 5.0
#: Most seconds between two checks for messages that the server should have announced.
_LOOK_EVERY: Final = 5.0
#: Queues whose leases one script call renews: enough to make calls cheap, few enough not to block the server.
_RENEWED_AT_ONCE: Final = 250


class RedisConsumer(Consumer):
    """Fetches from any number of queues."""

    heartbeat_interval: float

    def __init__(
        self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys, options: RedisOptions
    ) -> None:
        self._keys = keys
        self._options = options
        self.heartbeat_interval = min(options.lease / 3, _LOOK_EVERY)
        self._lease = int(options.lease * 1000)
        self._id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._consumed: dict[str, ConsumedQueue] = {}
        #: Cancelled queues, whose messages may still be leased.
        self._retired: dict[str, ConsumedQueue] = {}
        #: The consumed queues by the keys of their lists.
        self._by_list: dict[bytes, ConsumedQueue] = {}
        #: The active queues, in the order in which they are served.
        self._active: list[ConsumedQueue] = []
        #: Active queues in which nothing may wait: the next reservation has the server watch them.
        self._empty: list[ConsumedQueue] = []
        self._subscriptions: dict[bytes, list[str]] = {}
        self._broadcasts: deque[BroadcastDelivery] = deque()
        self._sequence = 1
        self._first = 0
        self._places = count()
        #: The queues may have changed since the last reservation: a `fetch` has to come.
        self._changed = False
        #: The last fetch found fewer messages than its limit; the next one probably will too.
        self._short = True
        self._renewed = self._next_take_over = monotonic()
        self._reap_from = 0.0
        self._router = RedisRouter(keys)
        self._pack = packer()
        self._connection = RedisConnection(addresses, settings, self._on_push)
        self._server_timer: ServerTimer | None = None
        try:
            self._connection.load([script(name) for name in _SCRIPTS])
            self._reap_from = monotonic() + _GRACE - min(_GRACE, uptime(self._connection, _GRACE))
            warn_of_eviction(self._connection)
            if not self._connection.watch_keys():
                key = self._keys.tick(self._id)
                self._server_timer = ServerTimer(addresses, settings, key, options.poll_interval)
            self._parking = RedisParking(watched=self._server_timer is None)
        except TransportError:
            self._connection.close()
            raise

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over the messages that `lost` has leased."""
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
                delivery.requeue_local = self._requeue_broadcast
                adopted.append(delivery)
        consumed_queues = [*lost._consumed.values(), *lost._retired.values()]
        commands: list[Command] = []
        calls: list[int] = []
        for consumed in consumed_queues:
            consumed.lease = self._keys.lease(consumed.name, lost._id)
            new_lease = self._keys.lease(consumed.name, self._id)
            fields = [field for queue, field in wanted if queue == consumed.name]
            consumed.move_lease(commands, new_lease, (lost._id, self._id, self._lease, *fields))
            calls.append(len(commands) - 1)
            consumed.lease = new_lease
            consumed.active = False
            # `add_queue` moves it to the consumed queues.
            self._retired[consumed.name] = consumed
        replies = self._run(commands) if commands else []
        for consumed, call in zip(consumed_queues, calls, strict=True):
            adopted += [wanted[consumed.name, field] for field in replies[call]]
        # Closing `lost` must not settle these messages again.
        lost._consumed, lost._retired = {}, {}
        return adopted

    # ------------------------------------------------------------ queues

    def add_queue(self, queue: Queue) -> None:
        """Bind `queue`, start consuming from it, and restore messages that dead workers left in it."""
        name = queue.name
        if name in self._consumed or any(name in names for names in self._subscriptions.values()):
            return
        if queue.exchange.type == "fanout" and queue.exchange.name:
            self._subscribe(queue)
            if not queue.broadcast:
                return
        else:
            self._declare(queue)
        self._consumed[name] = (
            self._retired.pop(name) if name in self._retired else ConsumedQueue(name, self._keys, self._id)
        )
        consumed = self._consumed[name]
        if queue.broadcast:
            # In a cluster nothing is bound: see `_commands_to_bind_own`.
            unbind = () if self._keys.cluster else (("SREM", *self._binding(queue)),)
            consumed.drop = (("DEL", *consumed.lists), *unbind)
        consumed.place = next(self._places)
        consumed.script_keys = (*consumed.lists, consumed.lease, consumed.leases)
        self._by_list.update((key.encode(), consumed) for key in consumed.lists)
        self._activate(consumed)
        self._empty.append(consumed)
        self._parking.add(consumed)
        self._changed = True
        self._renew_leases([consumed])

    def _binding(self, queue: Queue) -> tuple[str, str]:
        return self._keys.bindings(queue.exchange.name), self._keys.member(queue)

    def _declare(self, queue: Queue) -> None:
        commands = self._commands_to_bind_own(queue) if queue.broadcast else self._router.declare([queue])
        try:
            if commands:
                self._connection.run(commands)
        except ServerError as error:
            # A full server refuses the binding. If the queue is bound already, consuming from it frees memory.
            bound = ("SISMEMBER", *self._binding(queue))
            if not (error.temporary and self._connection.call(*bound)):
                self._raise_refusal(error)

    def _commands_to_bind_own(self, queue: Queue) -> list[Command]:
        """Return the commands that bind a worker's own queue, and drop those that dead workers left.

        A live worker is known by a subscription to a channel of its queue's name. kombu, for which the binding is,
        supports no clusters.
        """
        self._connection.send(self._pack(("SUBSCRIBE", self._keys.channel(queue.name, ""))))
        bindings, member = self._binding(queue)
        commands: list[Command] = [("SADD", bindings, member)]
        found = self._keys.read_members(self._connection.call("SMEMBERS", bindings))
        # Own queues of Celery's workers have other names.
        others = [one for one in found if one.queue.startswith(f"bcast.{queue.alias}.") and one.queue != queue.name]
        channels = [self._keys.channel(one.queue, "") for one in others]
        listeners = self._connection.call("PUBSUB", "NUMSUB", *channels)[1::2] if channels else ()
        for other, listening in zip(others, listeners, strict=True):
            if not listening:
                commands += [("SREM", bindings, self._keys.join(other)), ("DEL", *self._keys.lists(other.queue))]
        return commands

    def _subscribe(self, queue: Queue) -> None:
        if self._server_timer is not None:
            raise TransportError(
                f"queue {queue.name!r} is bound to the fan-out exchange {queue.exchange.name!r}, "
                "which a worker can only consume from on Redis 6 or newer"
            )
        self._declare(queue)
        for pattern in self._keys.subscriptions(queue):
            self._subscriptions.setdefault(pattern.encode(), []).append(queue.name)
            # The confirmation is a push; the reply to the command after it proves the subscription.
            self._connection.send(self._pack(("PSUBSCRIBE", pattern)))
        self._connection.call("PING")
        self._wake_if_changed()

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; fetched messages stay leased."""
        consumed = self._consumed.pop(name, None)
        if consumed is not None:
            self._retired[name] = consumed
            if consumed.drop:
                self._run(list(consumed.drop))
            for key in consumed.lists:
                del self._by_list[key.encode()]
            self._rest([consumed])
            self._parking.remove(consumed)
            self.due_at = self._parking.due_at
            if consumed.drop:
                self._connection.send(self._pack(("UNSUBSCRIBE", self._keys.channel(name, ""))))
        for pattern, names in list(self._subscriptions.items()):
            if name in names:
                names.remove(name)
                if not names:
                    del self._subscriptions[pattern]
                    self._connection.send(self._pack(("PUNSUBSCRIBE", pattern)))
                    self._connection.call("PING")
        self._wake_if_changed()

    def _activate(self, consumed: ConsumedQueue) -> None:
        """Reserve from `consumed`, until it is empty and watched."""
        if not consumed.active and consumed.name in self._consumed:
            consumed.active = True
            insort(self._active, consumed, key=self._rank)

    def _rank(self, consumed: ConsumedQueue) -> tuple[str, int]:
        return (consumed.name if self._options.queue_order_strategy == "sorted" else "", consumed.place)

    def _rest(self, queues: Iterable[ConsumedQueue]) -> None:
        """Reserve no more from `queues`."""
        for consumed in queues:
            consumed.active = False
        self._active = [consumed for consumed in self._active if consumed.active]

    # ------------------------------------------------------------ fetching

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Settle and reserve in one round trip; only settle while the queues are known to be empty."""
        if self._server_timer is not None:
            self._server_timer.drain()
        if not (self._active or self._parking.due):
            self._connection.drain()
            commands = self._settlements()
            if commands:
                self._run(commands)
        found: list[Delivery] = []
        self._add_broadcasts(found, limit)
        self._changed = False
        if (self._active or self._parking.due) and len(found) < limit:
            self._reserve(found, limit)
            self._add_broadcasts(found, limit)
        if self._server_timer is not None and len(found) < limit:
            self._server_timer.arm()
        return found

    def _add_broadcasts(self, found: list[Delivery], limit: int) -> None:
        while self._broadcasts and len(found) < limit:
            found.append(self._broadcasts.popleft())

    def _reserve(self, found: list[Delivery], limit: int) -> None:
        """Reserve until `found` holds `limit` deliveries or the queues are empty and watched."""
        for _ in range(_RESERVE_ATTEMPTS):
            commands = self._settlements()
            due_reply = self._parking.add_due_calls(commands) if self._parking.due else None
            active = list(self._active)
            reserve_reply = len(commands)
            if active:
                commands.append(self._reserve_call(active, limit - len(found)))
            watched = self._add_watches(commands, active)
            self._changed = False
            replies = self._run(commands)
            if due_reply is not None:
                for consumed in self._parking.apply_replies(replies[due_reply:]):
                    self._activate(consumed)
                self.due_at = self._parking.due_at
            if active:
                empty, *groups = replies[reserve_reply]
                self._empty = [active[index] for index in empty]
                self._add_reserved(active, groups, found)
            if watched:
                left = replies[1 - 2 * len(watched) :: 2]
                self._rest(queue for queue, some in zip(watched, left, strict=True) if not (some or queue.pushed))
            self._short = len(found) < limit
            if not self._short or self._server_timer is not None:
                # A full batch: the caller fetches again without being woken.
                self._changed = False
                return
            if not (self._active or self._parking.stale):
                return
        # Other clients keep changing these queues: let the loop run, and fetch again soon.
        self._changed = True
        self._wake_if_changed()

    def _reserve_call(self, active: list[ConsumedQueue], limit: int) -> ScriptCall:
        fair = self._options.queue_order_strategy == "round_robin"
        first = 0
        if fair:
            self._first = first = (self._first + 1) % len(active)
        keys = [key for consumed in active for key in consumed.script_keys]
        args = (self._id, limit, self._lease, self._sequence, len(active[0].lists), first, 1 if fair else 0, 1)
        return ScriptCall(script("reserve"), keys, args)

    def _add_watches(self, commands: list[Command], active: list[ConsumedQueue]) -> list[ConsumedQueue]:
        """Have the server watch the active queues that are probably empty after the reservation; return them."""
        if self._server_timer is not None:
            return []
        watched = active if self._short else [consumed for consumed in self._empty if consumed.active]
        for consumed in watched:
            consumed.pushed = False
            commands += (WATCH_NEXT, consumed.watch)
        return watched

    def _add_reserved(
        self, queues: Sequence[ConsumedQueue], groups: Sequence[Sequence[Any]], found: list[Delivery]
    ) -> None:
        sequence = self._sequence
        for group in groups:
            consumed = queues[group[0]]
            suffix = f":{group[1]}"
            for payload in group[2:]:
                found.append(RedisDelivery(payload, consumed, f"{sequence}{suffix}"))
                sequence += 1
        self._sequence = sequence

    def _on_push(self, push: Push) -> None:
        kind = push[0]
        if kind == b"invalidate":
            self._changed = True
            self._parking.changed(push[1])
            for key in self._by_list if push[1] is None else push[1]:
                consumed = self._by_list.get(key)
                if consumed is not None:
                    consumed.pushed = True
                    self._activate(consumed)
        elif kind == b"pmessage":
            self._changed = True
            for name in self._subscriptions.get(push[1], ()):
                consumed = self._consumed.get(name)
                payload = push[3] if consumed is None else sent_to(push[3], name)
                self._broadcasts.append(BroadcastDelivery(payload, name, self._requeue_broadcast))

    def _requeue_broadcast(self, delivery: BroadcastDelivery) -> None:
        self._broadcasts.appendleft(delivery)
        self._changed = True
        self._wake_if_changed()

    def _wake_if_changed(self) -> None:
        """Make the descriptor readable if a `fetch` has to come, unless the last wake-up is still unread."""
        if self._changed and not self._connection.unanswered:
            self._connection.wake()

    # ------------------------------------------------------------ settling

    def _settlements(self) -> list[Command]:
        commands: list[Command] = []
        if self._connection.closed:
            # The settlements stay in place for the consumer that adopts them.
            raise ConnectionLost(f"the connection to {self._connection.address.display} is closed")
        for consumed in self._consumed.values():
            if consumed.requeues:
                # This connection's own change ends the watch, and the server does not push it.
                self._activate(consumed)
                self._changed = True
            if consumed.parks:
                self._changed = True
                self._parking.change(consumed)
            consumed.settlements(commands)
        for consumed in self._retired.values():
            consumed.settlements(commands)
        return commands

    def _run(self, commands: list[Command]) -> list[Any]:
        try:
            return self._connection.run(commands)
        except ServerError as error:
            self._raise_refusal(error)

    def _raise_refusal(self, error: ServerError) -> NoReturn:
        if error.temporary:
            # The next connection repeats the settlements that the server refused.
            self._connection.close()
            raise ConnectionLost(str(error)) from error
        raise error

    def flush(self) -> None:
        """Send settlements now.

        The caller wants no messages now: what was noted before wakes it no more, or the loop would spin. The next
        heartbeat repeats it unless a `fetch` comes first.
        """
        noted, self._changed = self._changed, False
        commands = self._settlements()
        if commands:
            self._run(commands)
        else:
            # A descriptor that stays readable would make the loop spin.
            self._connection.drain()
        self._wake_if_changed()
        self._changed |= noted

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Settle, and lease the messages parked under `keys`, in one round trip."""
        found: list[Delivery] = []
        commands = self._settlements()
        if self._consumed:
            commands.append(self._parking.recall(self._id, self._lease, self._sequence, keys))
            queues = list(self._consumed.values())
            groups = self._run(commands)[-1]
            self._add_reserved(queues, groups, found)
            for group in groups:
                self._changed = True
                self._parking.change(queues[group[0]])
        elif commands:
            self._run(commands)
        self._wake_if_changed()
        return found

    def fileno(self) -> int:
        """Return the descriptor that turns readable when a message may have arrived."""
        return self._connection.fileno() if self._server_timer is None else self._server_timer.fileno()

    # ------------------------------------------------------------ leases

    def heartbeat(self) -> None:
        """Renew the leases, restore messages that dead workers left, and look for messages without a wake-up."""
        consumed_queues = [*self._consumed.values(), *self._retired.values()]
        elapsed, self._renewed = monotonic() - self._renewed, monotonic()
        if elapsed > self._options.lease:
            logger.warning(LEASE_NOT_RENEWED, self._options.lease, elapsed)
        self._look()
        for start in range(0, len(consumed_queues), _RENEWED_AT_ONCE):
            self._renew_leases(consumed_queues[start : start + _RENEWED_AT_ONCE])
        self._wake_if_changed()

    def _renew_leases(self, queues: Sequence[ConsumedQueue]) -> None:
        """Renew the leases of `queues`, and restore messages that dead workers left in them."""
        names = [key for consumed in queues for key in (consumed.lease, consumed.leases)]
        (lapsed,) = self._run([ScriptCall(script("renew"), names, (self._id, self._lease))])
        restored: list[ConsumedQueue] = []
        for consumed, consumers in zip(queues, lapsed, strict=True):
            for consumer in consumers if monotonic() >= self._reap_from else ():
                if reap(self._connection, self._keys, consumed, consumer.decode()):
                    restored.append(consumed)
        timeout = self._options.visibility_timeout
        if timeout and monotonic() >= self._next_take_over:
            self._next_take_over = monotonic() + min(timeout, _TAKE_OVER_EVERY)
            if take_over(self._connection, self._keys, timeout):
                restored += self._consumed.values()
        for consumed in restored:
            # Our own changes push nothing.
            self._activate(consumed)
            self._changed = True
        self._wake_if_changed()

    def _look(self) -> None:
        """Check the connection, and find messages in watched queues that the server has not announced."""
        resting = [consumed for consumed in self._consumed.values() if not consumed.active]
        if not resting:
            self._run([("PING",)])
            return
        (waiting,) = self._run([("EXISTS", *(key for consumed in resting for key in consumed.lists))])
        # A push is sent before any later reply, and has been read then.
        if waiting and not any(consumed.active for consumed in resting):
            logger.error(UNANNOUNCED, self._connection.address.display)
            for consumed in resting:
                self._activate(consumed)
            self._changed = True

    def close(self, *, requeue: bool) -> None:
        """Settle, requeue leased messages if `requeue` (else others do so when the lease lapses), and disconnect."""
        try:
            if not self._connection.closed and self._connection.pid == os.getpid():
                commands = self._settlements()
                consumed_queues = [*self._consumed.values(), *self._retired.values()]
                if requeue:
                    commands.extend(
                        ScriptCall(script("release"), (consumed.lease, consumed.leases, *consumed.lists), (self._id,))
                        for consumed in consumed_queues
                    )
                commands.extend(command for consumed in consumed_queues for command in consumed.drop)
                if commands:
                    self._connection.run(commands)
        except ConnectionLost as error:
            logger.debug("Unacknowledged messages are redelivered when their lease lapses: %s", error)
        except TransportError as error:
            logger.error("Unacknowledged messages are redelivered when their lease lapses: %s", error)
        finally:
            self._connection.close()
            if self._server_timer is not None:
                self._server_timer.close()
