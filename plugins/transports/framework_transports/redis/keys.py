"""Names of the keys and channels that this transport uses on the server.

1. Queues, bindings and fan-out channels have kombu's names, so that programs that use kombu's layout can share them.
2. Leases and parked messages are our own. Their keys carry the queue's name as hash tag, so they share the slot of the
   queue's main list.

Source of the layout: kombu's Redis transport, section 9 of the wire protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from framework.api.transport import Queue
from framework_transports.redis.options import RedisOptions


class Binding(NamedTuple):
    """One binding of an exchange."""

    routing_key: str
    #: A regular expression for a topic exchange, else empty.
    pattern: str
    queue: str


class Keys:
    """Builds key names from the options; `db` is the database's number.

    With `cluster` a queue's lists carry its name as hash tag, except the main list where it shares that slot anyway.
    """

    def __init__(self, options: RedisOptions, db: int, *, cluster: bool = False) -> None:
        self.cluster = cluster
        self._prefix = options.global_keyprefix
        self._separator = options.sep
        self._steps = sorted(set(options.priority_steps))
        self._suffixes = [f"{options.sep}{step}" if step else "" for step in self._steps]
        # Indexed by the message's priority, 0 to 9.
        self._by_priority = [self._suffixes[self._position(priority)] for priority in range(10)]
        self._patterns = options.fanout_patterns
        template = options.fanout_prefix
        if isinstance(template, bool):
            channel = f"/{db}." if template else ""
        else:
            channel = template.replace("{db}", str(db))
        self._channel_prefix = self._prefix + channel
        self.unacked = self._prefix + options.unacked_key
        self.unacked_index = self._prefix + options.unacked_index_key
        self.binding_deadlines = f"{self._prefix}_kombu.binding_deadlines"

    def _position(self, priority: int) -> int:
        below = [index for index, step in enumerate(self._steps) if step <= priority]
        return below[-1] if below else 0

    # ------------------------------------------------------------ queues

    def list_for(self, queue: str, priority: int | None) -> str:
        """Return the list for messages of `priority`."""
        return self._list(queue, self._by_priority[min(max(priority or 0, 0), 9)])

    def lists(self, queue: str) -> list[str]:
        """Return the queue's lists, highest priority first."""
        return [self._list(queue, suffix) for suffix in self._suffixes]

    def _list(self, queue: str, suffix: str) -> str:
        if self.cluster and (suffix or self._prefix):
            queue = _tag(queue)
        return self._prefix + queue + suffix

    def lease(self, queue: str, consumer: str) -> str:
        """Return the hash of the messages that `consumer` has leased from `queue`."""
        return f"{self._prefix}framework.lease.{_tag(queue)}.{consumer}"

    def leases(self, queue: str) -> str:
        """Return the sorted set of the consumers of `queue`, scored by the time in ms at which their lease lapses."""
        return f"{self._prefix}framework.leases.{_tag(queue)}"

    def parked(self, queue: str) -> str:
        """Return the sorted set of parked messages of `queue`: `parked_payloads`' fields, scored by due time in ms."""
        return f"{self._prefix}framework.parked.{_tag(queue)}"

    def parked_payloads(self, queue: str) -> str:
        """Return the hash of the parked messages of `queue`, by their keys."""
        return f"{self._prefix}framework.shelf.{_tag(queue)}"

    def tick(self, consumer: str) -> str:
        """Return the list that stays empty, on which `consumer` waits where the server cannot push."""
        return f"{self._prefix}framework.tick.{consumer}"

    def starts(self, name: str) -> str:
        """Return the key of the next free start of the rate limit `name`."""
        return f"{self._prefix}framework.starts.{name}"

    # ------------------------------------------------------------ bindings

    def bindings(self, exchange: str) -> str:
        """Return the set of the exchange's bindings."""
        return f"{self._prefix}_kombu.binding.{exchange}"

    def permanent_bindings(self, exchange: str) -> str:
        """Return the set of the exchange's bindings whose queue does not expire."""
        return f"{self._prefix}_kombu.binding_permanent.{exchange}"

    def member(self, queue: Queue) -> str:
        """Return the member for the queue's binding."""
        pattern = topic_pattern(queue.routing_key) if queue.exchange.type == "topic" else ""
        return self.join(Binding(queue.routing_key, pattern, queue.name))

    def join(self, binding: Binding) -> str:
        """Return the member for `binding`."""
        return self._separator.join(binding)

    def read_members(self, members: Iterable[bytes]) -> list[Binding]:
        """Parse binding members; skip members of another shape."""
        parts = (member.decode("utf-8", "replace").split(self._separator) for member in members)
        return [Binding(*part) for part in parts if len(part) == 3]

    # ------------------------------------------------------------ fan-out

    def channel(self, exchange: str, routing_key: str) -> str:
        """Return the channel of a message for a fan-out exchange."""
        if routing_key and self._patterns:
            return f"{self._channel_prefix}{exchange}/{routing_key}"
        return f"{self._channel_prefix}{exchange}"

    def subscription(self, queue: Queue) -> str:
        """Return the channel pattern of `queue`, bound to a fan-out exchange."""
        return self.channel(queue.exchange.name, queue.routing_key.replace("#", "*"))

    def subscriptions(self, queue: Queue) -> list[str]:
        """Return the channel patterns of a consumed `queue`; those of a broadcast queue match every routing key."""
        if not queue.broadcast:
            return [self.subscription(queue)]
        exchange = re.sub(r"([*?\[\]\\])", r"\\\1", queue.exchange.name)
        return list(dict.fromkeys((self.channel(exchange, ""), self.channel(exchange, "*"))))


def _tag(queue: str) -> str:
    # A queue name with its own hash tag is in that tag's slot already.
    return queue if "{" in queue else f"{{{queue}}}"


def topic_pattern(routing_key: str) -> str:
    """Return the regular expression that kombu's layout stores with a topic's routing key.

    It must equal kombu's text exactly, because it is part of the binding's identity.
    """
    words = {"*": r"[^\.]+", "#": ".*?"}
    joined = r"\.".join(words.get(word, word) for word in routing_key.split("."))
    return f"^{joined}$"
