"""Names of everything this transport keeps on the server.

1. Queues, bindings and fan-out channels are kombu's, so that any program that speaks its layout can share them.
2. Leases and what is parked are our own. Their keys carry the queue's name as hash tag: they live in the slot of the
   queue's main list.

Source of the layout: kombu's Redis transport, section 9 of the wire protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from framework.api.transport import Queue
from framework_transports.redis.options import RedisOptions


class Binding(NamedTuple):
    """One binding of an exchange."""

    routing_key: str
    #: A regular expression when the exchange is a topic, else empty.
    pattern: str
    queue: str


class Keys:
    """Names keys by the options; `db` is the database's number.

    With `cluster` a queue's lists carry its name as hash tag, but for the main one where it is in that slot anyway.
    """

    def __init__(self, options: RedisOptions, db: int, *, cluster: bool = False) -> None:
        self.cluster = cluster
        self._prefix = options.global_keyprefix
        self._separator = options.sep
        self._steps = sorted(set(options.priority_steps))
        self._suffixes = [f"{options.sep}{step}" if step else "" for step in self._steps]
        # The list of each priority that a message may have.
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
        """Return the list that a message of `priority` goes to."""
        return self._list(queue, self._by_priority[min(max(priority or 0, 0), 9)])

    def lists(self, queue: str) -> list[str]:
        """Return the queue's lists, first served first."""
        return [self._list(queue, suffix) for suffix in self._suffixes]

    def _list(self, queue: str, suffix: str) -> str:
        if self.cluster and (suffix or self._prefix):
            queue = _tag(queue)
        return self._prefix + queue + suffix

    def lease(self, queue: str, consumer: str) -> str:
        """Return the hash of what `consumer` has on loan from `queue`."""
        return f"{self._prefix}framework.lease.{_tag(queue)}.{consumer}"

    def leases(self, queue: str) -> str:
        """Return the sorted set of the consumers of `queue`, by the time in ms at which their lease lapses."""
        return f"{self._prefix}framework.leases.{_tag(queue)}"

    def parked(self, queue: str) -> str:
        """Return the sorted set of what is parked of `queue`: fields of its shelf, by the time in ms when it is due."""
        return f"{self._prefix}framework.parked.{_tag(queue)}"

    def shelf(self, queue: str) -> str:
        """Return the hash of the messages of `queue` that are parked, by the keys under which they are."""
        return f"{self._prefix}framework.shelf.{_tag(queue)}"

    def starts(self, name: str) -> str:
        """Return the key in which the starts of the limit `name` are counted."""
        return f"{self._prefix}framework.starts.{name}"

    # ------------------------------------------------------------ bindings

    def bindings(self, exchange: str) -> str:
        """Return the set of the exchange's bindings."""
        return f"{self._prefix}_kombu.binding.{exchange}"

    def permanent_bindings(self, exchange: str) -> str:
        """Return the set of those bindings whose queue does not expire."""
        return f"{self._prefix}_kombu.binding_permanent.{exchange}"

    def member(self, queue: Queue) -> str:
        """Return the member that stands for the queue's binding."""
        pattern = topic_pattern(queue.routing_key) if queue.exchange.type == "topic" else ""
        return self._separator.join((queue.routing_key, pattern, queue.name))

    def read_members(self, members: Iterable[bytes]) -> list[Binding]:
        """Take binding members apart; those of another shape are skipped."""
        parts = (member.decode("utf-8", "replace").split(self._separator) for member in members)
        return [Binding(*part) for part in parts if len(part) == 3]

    # ------------------------------------------------------------ fan-out

    def channel(self, exchange: str, routing_key: str) -> str:
        """Return the channel to which a message for a fan-out exchange is published."""
        if routing_key and self._patterns:
            return f"{self._channel_prefix}{exchange}/{routing_key}"
        return f"{self._channel_prefix}{exchange}"

    def subscription(self, queue: Queue) -> str:
        """Return the pattern of channels from which `queue`, bound to a fan-out exchange, is fed."""
        return self.channel(queue.exchange.name, queue.routing_key.replace("#", "*"))


def _tag(queue: str) -> str:
    # A queue that names a tag itself is in that tag's slot already.
    return queue if "{" in queue else f"{{{queue}}}"


def topic_pattern(routing_key: str) -> str:
    """Return the regular expression that the layout keeps beside a topic's routing key.

    It must be the same text, to the letter, that others write: the binding's identity includes it.
    """
    words = {"*": r"[^\.]+", "#": ".*?"}
    joined = r"\.".join(words.get(word, word) for word in routing_key.split("."))
    return f"^{joined}$"
