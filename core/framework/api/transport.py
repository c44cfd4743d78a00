"""Contract of a transport: publishes messages to a broker and fetches them.

A transport makes three kinds of objects, each with its own connection if the broker requires that:

* `Producer`: publishes; used by clients, by tasks and for dead letters. Thread-safe.
* `Consumer`: fetches batches of `Delivery` and sends their settlements in batches. Used by one loop only.
* `Mailbox`: fan-out in both directions, for remote control and events (trait `fanout`). Used by one loop only.

Some transports also make a `SharedRateLimit` (trait `shared_rate_limit`), which counts for all workers of a cluster.

Promises
1. `publish` returns when the broker has every message (AMQP: confirmed; Redis: answered; SQLite: committed).
2. A fetched, unsettled message is at every moment stored in a place that survives this process.
3. `fetch` never blocks longer than a round trip. After it returns fewer messages than the limit, `fileno()` turns
   readable as soon as more messages may be available. It may also turn readable without a message.
4. A delivery settles itself: `ack`, `reject`. Settlements are sent by the next `fetch` or `flush`, in order.
5. Every method raises `ConnectionLost`, and only that, for a lost connection. The object is unusable then: core makes a
   new one and calls `close`; a new consumer may take over the unacknowledged deliveries of the old one (`adopt`).
6. Passwords never show in `display_url` or in an exception's text.
7. With the trait `parks` a delivery can be parked: the broker keeps the message until its time, also if workers end
   meanwhile, and then delivers it to a consumer of its queue, with its original age. `due_at` is the next such time.
   With the trait `recalls` a consumer may fetch the message earlier, by the key under which it was parked.
8. A message from a worker's own queue for a broadcast queue has the default exchange and that queue in its
   ``delivery_info``, so that a retry comes back to this worker alone. Such a queue ends with its consumer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

from framework.api.plugin import Plugin
from framework.message import Outgoing, Payload


class Exchange(msgspec.Struct, frozen=True):
    """An exchange. `type` is direct, topic or fanout (AMQP: any type of the broker)."""

    name: str = ""
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    delivery_mode: int | None = None
    arguments: dict[str, Any] | None = None


#: What every broker can be sent: milliseconds in 32 bits, sizes in 63.
_Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=(2**32 - 1) / 1000)]
_Size: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue and its one binding to an exchange. Times are in seconds."""

    name: str
    exchange: Exchange = Exchange()
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    no_ack: bool = False
    alias: str | None = None
    expires: _Seconds | None = None
    message_ttl: _Seconds | None = None
    max_length: _Size | None = None
    max_length_bytes: _Size | None = None
    max_priority: Annotated[int, Meta(ge=0, le=255)] | None = None
    queue_arguments: dict[str, Any] | None = None
    binding_arguments: dict[str, Any] | None = None
    consumer_arguments: dict[str, Any] | None = None
    #: Each worker consumes from a queue of its own on a fan-out exchange; the `alias` of that one is this name.
    broadcast: bool = False


class Broadcast(Queue, frozen=True):
    """A queue whose messages every worker gets: see `Queue.broadcast`."""

    name: str
    broadcast: bool = True


class TransportTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport can do; core refuses a configuration that needs a missing trait."""

    #: Has fan-out exchanges, hence remote control and events.
    fanout: bool
    #: Several processes may use the broker at once.
    shared: bool = True
    #: The type of Celery's event exchange on this broker.
    events_exchange: Literal["topic", "fanout"] = "topic"
    #: Counts task starts for a whole cluster: `Transport.shared_rate_limit`.
    shared_rate_limit: bool = False
    #: Keeps messages for a later time: `Delivery.park`.
    parks: bool = False
    #: Finds parked messages by their keys without scanning: `Consumer.recall`.
    recalls: bool = False


class Peeked(msgspec.Struct, frozen=True):
    """A message that was looked at and left in its queue."""

    payload: Payload
    #: When a parked message comes due (s since the epoch); None: it waits.
    due: float | None = None


class Delivery(ABC):
    """One unacknowledged message; it can be settled once.

    Subclasses declare `__slots__` and set the three attributes, without properties: deliveries are on the hot path.
    """

    __slots__ = ("deliveries", "payload", "queue")

    #: The undecoded message.
    payload: Payload
    #: The queue from which the message was fetched.
    queue: str
    #: How often the broker has delivered the message before (0: first time), as far as the broker reports it.
    deliveries: int

    @abstractmethod
    def ack(self) -> None:
        """Acknowledge the message."""

    @abstractmethod
    def reject(self, *, requeue: bool) -> None:
        """Requeue the message (at the front of its queue if the broker can), or drop it."""

    def release(self) -> None:
        """Requeue the message without counting a delivery, because its task has not been started.

        A broker that counts deliveries itself counts this one, too.
        """
        self.reject(requeue=True)

    def park(self, until: float, key: str = "") -> bool:
        """Have the broker keep the message until `until` (s since the epoch), then deliver it, uncounted.

        Until then the message neither waits in its queue nor is unacknowledged. It may be delivered a little early if
        clocks differ: the receiver checks the time again. `Consumer.recall` finds the message by `key`, unless that is
        empty; several messages may have the same key. Returns False if the broker cannot park the message, as here.
        """
        return False


class Producer(ABC):
    """Publishes messages. Thread-safe: calls do not interleave."""

    @abstractmethod
    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all of `messages` as one batch and return when the broker has them.

        Raises `ConnectionLost` if the broker may not have them, `PublishRefused` if it refused messages: `temporary` if
        it may accept them later, as what follows a task is then published again.
        """

    @abstractmethod
    def declare(self, queues: Iterable[Queue]) -> None:
        """Create the exchanges, queues and bindings that do not exist; of a broadcast queue only the exchange."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; harmless when closed."""


class Consumer(ABC):
    """Fetches messages from a set of queues; see the promises of this module."""

    #: The broker pushes messages up to the prefetch limit: see `prefetch` and `pause_delivery`.
    pushes: ClassVar[bool] = False

    @abstractmethod
    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and consume from it too; harmless when it is consumed already.

        Core may call it at any time, also for a cancelled queue, and fetches soon after. Raises `TransportError` if
        the broker refuses: the consumer then continues without that queue, or its next use raises `ConnectionLost`.
        """

    @abstractmethod
    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`; harmless when it is not consumed.

        Fetched messages stay unacknowledged and can be settled; messages that were only prefetched are requeued.
        """

    @abstractmethod
    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Send pending settlements and return up to `limit` (> 0) deliveries, highest priority first."""

    @abstractmethod
    def flush(self) -> None:
        """Send pending settlements."""

    def pause_delivery(self, running: int) -> None:
        """Send pending settlements and have the broker push no message until the next `fetch`.

        Core calls it when it has no capacity and expects none for a while. A broker that pushes would send a message
        for each acknowledged one, and it would wait here while another worker is free. The broker must not pause if
        fewer messages are unacknowledged than the `running` unacknowledged tasks: some of these lost their connection,
        and the broker redelivers them. A transport that does not push has nothing to pause, as here.
        """
        del running
        self.flush()

    def poll_while_full(self) -> Sequence[Delivery] | None:
        """Read the broker's frames while core has no capacity; the broker may cancel the consumer, for example.

        Core calls it when the descriptor is readable. Returns the redelivered messages that the broker has pushed, now
        unacknowledged: core may be running their tasks. Returns None, as here, if nothing was read: core then does not
        watch the descriptor until it has capacity.
        """
        return None

    def recall(self, keys: Sequence[str]) -> Sequence[Delivery]:
        """Send pending settlements and return the messages parked under `keys` in the consumed queues, uncounted.

        The messages are unacknowledged then, regardless of the prefetch limit. If several consumers recall a key at
        once, one of them gets its messages. Of the messages of a queue with the same key, those beyond eight may stay
        parked. Takes one round trip per some hundred keys, however many messages are parked. Transports without the
        trait `recalls` find nothing, as here.
        """
        return ()

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor that turns readable when `fetch` may return messages; the same until `close`."""

    def prefetch(self, limit: int) -> None:
        """Set the prefetch limit: at most `limit` unacknowledged messages (0: no limit), for brokers that push."""

    def heartbeat(self) -> None:
        """Renew leases, send heartbeats; core calls it every `heartbeat_interval` seconds, also while tasks run."""

    def adopt(self, lost: Consumer, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Take over the unacknowledged messages of `lost`, a consumer of the same transport that lost its connection.

        Core calls it before the first `add_queue`, and closes `lost` afterwards. Returns the members of `deliveries`
        that this consumer now holds unacknowledged; they are settled through it. Sends the settlements that `lost`
        could not send, and requeues its other messages uncounted. Returns nothing, as here, if the broker has requeued
        them itself. If this raises `ConnectionLost`, the next consumer adopts from `lost` and from this one.
        """
        return ()

    #: Seconds between two calls of `heartbeat`; None: never.
    heartbeat_interval: float | None = None

    #: When the next parked message of these queues is due, as `time.monotonic` counts; None: no time is known. Core
    #: reads it after each `fetch` and fetches again at that time, also if the descriptor is not readable; an earlier
    #: time turns the descriptor readable. A broker that pushes due messages sets it only if its consumer needs another
    #: `fetch` at that time for another reason.
    due_at: float | None = None

    @abstractmethod
    def close(self, *, requeue: bool) -> None:
        """Send pending settlements, requeue all unacknowledged messages if `requeue`, and disconnect.

        Harmless when closed, and never raises `ConnectionLost`.
        """


class Mailbox(ABC):
    """Fan-out: subscribes to exchanges and publishes to them and to reply queues."""

    @abstractmethod
    def subscribe(self, queue: Queue) -> None:
        """Declare `queue`, bind it to its exchange and consume from it without acknowledgement."""

    @abstractmethod
    def receive(self) -> Sequence[tuple[str, Payload]]:
        """Return the messages that have arrived, as ``(exchange name, payload)``, without blocking."""

    @abstractmethod
    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish without waiting for a confirmation. A missing reply queue is ignored."""

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish, and return how many subscriptions received the messages to fan-out exchanges.

        Returns None, as here, if the broker does not report it; one that reports only that nobody did returns 0 then.
        """
        self.send(messages)
        return None

    @property
    def congested(self) -> bool:
        """Whether the broker accepts messages slower than they are sent, so that `send` might block."""
        return False

    #: Seconds between two calls of `heartbeat`; None: never.
    heartbeat_interval: float | None = None

    def heartbeat(self) -> None:
        """Ask the broker for a sign of life, without waiting; called right after `receive`.

        Raises `ConnectionLost` if no sign has come since the last call: the network may drop packets without notice.
        """

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor that turns readable when messages have arrived."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect, deleting exclusive queues; harmless when closed."""


class SharedRateLimit(ABC):
    """A rate limit for all workers together: reserves the times at which tasks may start. Used by one thread only."""

    @abstractmethod
    def reserve(self, name: str, interval: float, count: int) -> float:
        """Reserve the next `count` starts of `name`, `interval` seconds apart; return the seconds until the first.

        The starts of a name follow in the order of the calls of all workers; reserved starts that are not used are
        lost, and past starts are forgotten. Times are by the store's clock, so that a worker's clock may be wrong.
        Raises `ConnectionLost`.
        """

    @abstractmethod
    def close(self) -> None:
        """Disconnect; harmless when closed."""


class Transport(Plugin, ABC):
    """Base class of transports. Creating a transport does not connect.

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
        """Return whether this transport also accepts URLs of `scheme`, which is the name of no transport.

        Core imports all installed transports, asks them in the order of their names, and uses the first that accepts.
        Must be quick, and return False for a misspelt scheme. By default only the names of entry points are accepted.
        """
        return False

    @property
    @abstractmethod
    def display_url(self) -> str:
        """The URL for display, without the password."""

    @abstractmethod
    def producer(self) -> Producer:
        """Connect and return a producer. Raises `ConnectionLost`."""

    @abstractmethod
    def consumer(self) -> Consumer:
        """Connect and return a consumer without queues. Raises `ConnectionLost`."""

    def mailbox(self) -> Mailbox:
        """Connect and return a mailbox; called only if the trait `fanout` is set. Raises `ConnectionLost`."""
        raise NotImplementedError(f"{type(self).__name__} declares the trait fanout but has no mailbox")

    def shared_rate_limit(self) -> SharedRateLimit:
        """Connect and return a shared rate limit; called only with the trait of that name. Raises `ConnectionLost`."""
        raise NotImplementedError(f"{type(self).__name__} declares the trait shared_rate_limit but has none")

    @abstractmethod
    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue, without parked ones; None: the queue does not exist."""

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        return {queue.name: 0 for queue in queues}

    def peek(self, queue: Queue, limit: int, *, parked: bool = False) -> Sequence[Peeked] | None:
        """Return up to `limit` waiting messages of `queue` in the order of delivery, or parked ones, the nearest first.

        The messages stay where they are. Returns None, as here, if the broker cannot show them; nothing is returned for
        a queue that does not exist.
        """
        return None

    @abstractmethod
    def purge(self, queue: Queue) -> int:
        """Drop the waiting and parked messages of `queue`, not the unacknowledged ones; return how many it dropped."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return the connection's parameters for `inspect stats`.

        Keys: hostname, port, virtual_host, transport, …; no password.
        """

    def close(self) -> None:
        """Close the transport's own pools and files; its users close the producers, consumers and mailboxes."""


#: Connects a producer; for result stores that send results through the broker.
ProducerFactory = Callable[[], Producer]

#: Connects a consumer without queues; for result stores that receive results from the broker (rpc).
ConsumerFactory = Callable[[], Consumer]
