"""Contract of a transport: how messages reach a broker and come back.

A transport has three faces, each with a connection of its own where the broker wants that:

* `Producer`: publishes; used by clients, by tasks and for dead letters. Thread-safe.
* `Consumer`: hands out batches of `Delivery` and takes their settlements in batches. Used by one loop only.
* `Mailbox`: fan-out in and out, for remote control and events (trait `fanout`). Used by one loop only.

Some have a fourth, `SharedRateLimit` (trait `shared_rate_limit`), which counts for all workers of a cluster together.

Promises
1. `publish` returns when the broker has every message (AMQP: confirmed; Redis: answered; SQLite: committed).
2. No moment exists in which a fetched, unsettled message is in no place that survives this process.
3. `fetch` never blocks longer than a round trip. When it returns fewer than asked, it has armed the wake-up:
   `fileno()` turns readable as soon as there may be more. It may also turn readable for nothing.
4. A delivery settles itself: `ack`, `reject`. Settlements are sent by the next `fetch` or `flush`, in order.
5. A lost connection is `ConnectionLost`, and only that, from every method. After it the face is dead: core asks the
   transport for a new one and calls `close`; a new consumer may take over what the old one had on loan (`adopt`).
6. Passwords never show in `display_url` or in an exception's text.
7. With the trait `parks` a delivery can be parked: the broker keeps the message until its time, whoever lives or dies
   meanwhile, and then gives it to a consumer of its queue, as old as it is. `due_at` tells each consumer when. With
   the trait `recalls` a consumer may have it before that, by the key under which it was parked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from framework.api.plugin import Plugin
from framework.message import Outgoing, Payload


class Exchange(msgspec.Struct, frozen=True):
    """An exchange. `type` is direct, topic or fanout (AMQP: whatever the broker has)."""

    name: str = ""
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    delivery_mode: int | None = None
    arguments: dict[str, Any] | None = None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue and the one binding through which its exchange feeds it. Times are in seconds."""

    name: str
    exchange: Exchange = Exchange()
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    no_ack: bool = False
    alias: str | None = None
    expires: float | None = None
    message_ttl: float | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    max_priority: int | None = None
    queue_arguments: dict[str, Any] | None = None
    binding_arguments: dict[str, Any] | None = None
    consumer_arguments: dict[str, Any] | None = None


class TransportTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport can do; core refuses in words what a trait rules out."""

    #: Fan-out exchanges, hence remote control and events.
    fanout: bool
    #: Several processes may use the broker at once.
    shared: bool = True
    #: The type of exchange that Celery's programs, and hence ours, send and receive events through on this broker.
    events_exchange: Literal["topic", "fanout"] = "topic"
    #: Counts starts of tasks for a whole cluster.
    shared_rate_limit: bool = False
    #: Keeps messages for a later time: `Delivery.park`.
    parks: bool = False
    #: Finds them there by their keys, without looking at the others: `Consumer.recall`.
    recalls: bool = False


class Delivery(ABC):
    """One message on loan from the broker; it settles itself, once.

    A plain attribute holder on the hot path: subclasses declare `__slots__` and set the three attributes.
    """

    __slots__ = ("deliveries", "payload", "queue")

    #: The message, unread.
    payload: Payload
    #: The queue that it was fetched from.
    queue: str
    #: How often the broker has handed it out before (0: first time), as far as the broker tells.
    deliveries: int

    @abstractmethod
    def ack(self) -> None:
        """The message is done with."""

    @abstractmethod
    def reject(self, *, requeue: bool) -> None:
        """Give the message back (to the front of its queue where the broker can), or drop it."""

    def release(self) -> None:
        """Give the message back as if it had never been fetched: nothing was tried, so no delivery is counted.

        A broker that counts by itself counts all the same.
        """
        self.reject(requeue=True)

    def park(self, until: float, key: str = "") -> bool:
        """Have the broker keep the message until `until` (s since the epoch), then hand it out, uncounted.

        Until then it neither waits in its queue nor is on loan. It may come a little early where clocks differ: who
        gets it looks again. `key`, unless it is empty, is what `Consumer.recall` finds it by; several messages may have
        the same. Returns False, as here, and does nothing when this broker cannot park this message.
        """
        return False


class Producer(ABC):
    """Publishes messages. Any thread may call; calls do not interleave."""

    @abstractmethod
    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all of `messages` in one go and return when the broker has them.

        Raises `ConnectionLost` when it cannot be known that the broker has them, `PublishRefused` when it said no.
        """

    @abstractmethod
    def declare(self, queues: Iterable[Queue]) -> None:
        """Create exchanges, queues and bindings that do not exist; harmless when they do."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; harmless when closed."""


class Consumer(ABC):
    """Fetches from a set of queues; see the promises of this module."""

    #: The broker sends messages unasked, up to a limit: see `prefetch` and `pause_delivery`.
    pushes: ClassVar[bool] = False

    @abstractmethod
    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and consume from it too; harmless when it is consumed already.

        At any time, also for a queue that was cancelled; core fetches soon after, for what waits there already. Raises
        `TransportError` when the broker refuses: the consumer then goes on without that queue, or is lost with its next
        use.
        """

    @abstractmethod
    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; harmless when it is not consumed.

        What was fetched stays on loan and can be settled; what the broker had sent ahead goes back.
        """

    @abstractmethod
    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Send pending settlements and return up to `limit` (> 0) deliveries, highest priority first."""

    @abstractmethod
    def flush(self) -> None:
        """Send pending settlements."""

    def pause_delivery(self, running: int) -> None:
        """Send pending settlements; core has room for no message, and will not for a while.

        A broker that pushes would send one for each that is acknowledged, which would wait here while another worker is
        free: have it send nothing from before these settlements until the next `fetch`. But not while fewer are on loan
        than the `running` whose tasks run unacknowledged: then an earlier connection was lost, and they come again. As
        here, nothing is to be done by a transport that does not push.
        """
        del running
        self.flush()

    def poll_while_full(self) -> Sequence[Delivery] | None:
        """Take in what the broker says while core wants no messages; it may be that it takes some back.

        Core calls it when the descriptor is readable. Returns what the broker has pushed of its own accord and had
        handed out before, on loan now: core may be running it. None, as here, when nothing was read: core then leaves
        the descriptor alone until it wants messages.
        """
        return None

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Send pending settlements and return what is parked under `keys` in the queues that are consumed, uncounted.

        It is on loan then, however much is already. Any consumer may ask, several at once: one of them gets it. Where
        more than eight messages of a queue share a key, those beyond may be left where they are. Takes one round trip
        for some hundred keys, however much is parked. As here, nothing is found: for transports without the trait
        `recalls`.
        """
        return ()

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor that turns readable when `fetch` may have something; the same until `close`."""

    def prefetch(self, limit: int) -> None:
        """Learn that at most `limit` deliveries (0: any number) will be on loan; a broker that pushes needs to know."""

    def heartbeat(self) -> None:
        """Renew leases, send heartbeats; core calls it every `heartbeat_interval` seconds, whatever tasks do."""

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over what `lost`, a consumer of the same transport, had on loan when its connection was lost.

        Core calls it before the first `add_queue`, and closes `lost` afterwards. Returns those of `deliveries` that are
        on loan to this consumer now; they are settled as before, through it. Settlements that `lost` could not send are
        sent, and everything else that it had on loan goes back uncounted. As here, none: this broker has taken them
        back. When this raises `ConnectionLost`, the next consumer is asked to adopt from `lost` and from this one.
        """
        return ()

    #: Seconds between two calls of `heartbeat`; None: never.
    heartbeat_interval: float | None = None

    #: When a parked message of these queues comes due, as `time.monotonic` counts; None: none that is known of. Core
    #: reads it after each `fetch` and calls `fetch` again then, without the descriptor; one that is learned otherwise,
    #: or comes to be earlier, turns the descriptor readable. A broker that pushes what is due names only times at which
    #: its consumer wants to be asked again for another reason.
    due_at: float | None = None

    @abstractmethod
    def close(self, *, requeue: bool) -> None:
        """Send pending settlements, give everything still on loan back if `requeue`, and disconnect.

        Harmless when closed, and never raises `ConnectionLost`.
        """


class Mailbox(ABC):
    """Fan-out: subscribes to exchanges and publishes to them and to reply queues."""

    @abstractmethod
    def subscribe(self, queue: Queue) -> None:
        """Declare `queue`, bind it to its exchange and receive what comes in, without acknowledgement."""

    @abstractmethod
    def receive(self) -> Sequence[tuple[str, Payload]]:
        """Return what has arrived, as ``(exchange name, payload)``, without blocking."""

    @abstractmethod
    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish without waiting for a confirmation. A missing reply queue is ignored."""

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish, and return how many subscriptions have what went to fan-out exchanges.

        None, as here: this broker does not tell.
        """
        self.send(messages)
        return None

    @property
    def congested(self) -> bool:
        """The broker does not take messages as fast as they are sent: `send` might block just now."""
        return False

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor that turns readable when something has arrived."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect, deleting exclusive queues; harmless when closed."""


class SharedRateLimit(ABC):
    """Gives out times at which tasks may start, each once among all workers. Used by one thread only."""

    @abstractmethod
    def reserve(self, name: str, interval: float, count: int) -> float:
        """Reserve the next `count` starts of `name`, `interval` seconds apart; return the seconds until the first.

        A name's starts follow each other in the order of the calls, whoever makes them; starts that were reserved and
        not used are lost, and what is over is forgotten. The clock is the store's own, so that of a worker need not be
        right. Raises `ConnectionLost`.
        """

    @abstractmethod
    def close(self) -> None:
        """Disconnect; harmless when closed."""


class Transport(Plugin, ABC):
    """A broker's driver. Making one connects to nothing.

    Arguments: `url`, the broker URL as configured; `options`, an instance of `options_type`; `settings`, the broker
    settings that concern every transport: ``connection_timeout`` (s), ``heartbeat`` (s), ``use_ssl``,
    ``failover_strategy``, ``login_method``, ``native_delayed_delivery_queue_type``.
    """

    traits: ClassVar[TransportTraits]

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        self.url = url
        self.options: Any = options
        self.settings = settings

    @classmethod
    def accepts(cls, scheme: str) -> bool:
        """Say whether this transport also takes URLs of `scheme`, which is no transport's name.

        All installed transports are imported to be asked, in the order of their names, and the first gets the URL. Must
        be quick, and false of what is merely misspelt. As here: it takes the names of its entry points.
        """
        return False

    @property
    @abstractmethod
    def display_url(self) -> str:
        """The URL for people: no password."""

    @abstractmethod
    def producer(self) -> Producer:
        """Connect and return a producer. Raises `ConnectionLost`."""

    @abstractmethod
    def consumer(self) -> Consumer:
        """Connect and return a consumer of no queues yet. Raises `ConnectionLost`."""

    def mailbox(self) -> Mailbox:
        """Connect and return a mailbox; called only if the trait `fanout` is set. Raises `ConnectionLost`."""
        raise NotImplementedError(f"{type(self).__name__} declares the trait fanout but has no mailbox")

    def shared_rate_limit(self) -> SharedRateLimit:
        """Connect and return a shared rate limit; called only with the trait of that name. Raises `ConnectionLost`."""
        raise NotImplementedError(f"{type(self).__name__} declares the trait shared_rate_limit but has none")

    @abstractmethod
    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue, without those parked; None when there is no such queue."""

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        return {queue.name: 0 for queue in queues}

    @abstractmethod
    def purge(self, queue: Queue) -> int:
        """Drop what waits in `queue` or is parked (not what is on loan) and return how much that was."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return the connection's parameters for `inspect stats`.

        Keys: hostname, port, virtual_host, transport, …; no password.
        """

    def close(self) -> None:
        """Close what the transport itself holds (pools, files); its faces are closed by whoever asked for them."""


#: Makes a producer; result stores that answer through the broker are given one.
ProducerFactory = Callable[[], Producer]

#: Makes a consumer of no queues yet; result stores that listen on the broker (rpc) are given one.
ConsumerFactory = Callable[[], Consumer]
