"""Any other broker that kombu knows: ``sqs://``, ``filesystem://``, ``mongodb://``, ``zookeeper://`` and so on.

1. `KombuTransport` publishes and fetches through kombu's own channel; it has no fan-out, hence no remote control.
2. `KombuConsumer` asks each queue in turn. These brokers cannot wake anybody, so a `Ticker` makes its descriptor
   readable now and then while it is idle: soon after there was work, ever more rarely while there is none.
3. How safe a fetched message is depends on kombu's transport: `filesystem` has given it away once it is fetched.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from framework.api.transport import Consumer, Delivery, Producer, Queue, Transport, TransportTraits
from framework.exceptions import ConnectionLost, PluginUnavailable, PublishRefused, TransportError
from framework.message import JSON, UTF8, Outgoing, Payload

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds between two looks, right after there was something; doubled with each look in vain.
FIRST_PAUSE = 0.02


class KombuOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The table ``[transport.kombu]``."""

    polling_interval: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between two looks into empty queues, at most.")
    ] = 1.0
    transport_options: Annotated[
        dict[str, Any], msgspec.Meta(description="What kombu's transport is given, such as data_folder_in or region.")
    ] = {}


def _kombu() -> Any:
    # With the first connection, for it takes its time; as `Any`, for it has no types.
    return import_module("kombu")


def without_password(urls: str) -> str:
    """Return `urls`, separated by ``;``, for people."""
    from kombu.utils.url import maybe_sanitize_url

    return ";".join(str(maybe_sanitize_url(part.strip())) for part in urls.split(";"))


class Broker:
    """One connection of kombu's, and what its errors mean."""

    def __init__(self, url: str, options: KombuOptions, settings: Mapping[str, Any]) -> None:
        kombu = _kombu()
        self.display_url = without_password(url)
        self.connection = kombu.Connection(
            url,
            connect_timeout=settings.get("connection_timeout") or 4.0,
            heartbeat=settings.get("heartbeat") or 0,
            ssl=settings.get("use_ssl") or False,
            login_method=settings.get("login_method"),
            failover_strategy=settings.get("failover_strategy") or "round-robin",
            transport_options=dict(options.transport_options),
        )
        try:
            transport = self.connection.transport
        except ImportError as error:
            scheme = url.partition("://")[0]
            raise PluginUnavailable(
                f"a broker URL with {scheme}:// needs a library that is not installed ({error}): "
                f"pip install 'kombu[{scheme}]'"
            ) from error
        self.lost = (*transport.connection_errors, OSError)
        self.refused = tuple(transport.channel_errors)
        with self.errors():
            self.connection.ensure_connection(max_retries=1, reraise_as_library_errors=False)
            self.channel: Any = self.connection.channel()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn kombu's errors into ours."""
        try:
            yield
        except self.refused as error:
            raise TransportError(f"{self.display_url} refused: {error}") from error
        except self.lost as error:
            raise ConnectionLost(f"the connection to {self.display_url} is lost: {error}") from error

    def entity(self, queue: Queue) -> Any:
        """Return `queue` as kombu's, bound to the channel."""
        kombu = _kombu()
        exchange = kombu.Exchange(
            queue.exchange.name,
            queue.exchange.type,
            durable=queue.exchange.durable,
            auto_delete=queue.exchange.auto_delete,
            arguments=queue.exchange.arguments,
        )
        return kombu.Queue(
            queue.name,
            exchange,
            queue.routing_key,
            durable=queue.durable,
            exclusive=queue.exclusive,
            auto_delete=queue.auto_delete,
            expires=queue.expires,
            message_ttl=queue.message_ttl,
            max_length=queue.max_length,
            max_length_bytes=queue.max_length_bytes,
            max_priority=queue.max_priority,
            queue_arguments=queue.queue_arguments,
            binding_arguments=queue.binding_arguments,
            no_ack=queue.no_ack,
        )(self.channel)

    def declare(self, queue: Queue) -> None:
        """Create `queue`, its exchange and binding."""
        entity = self.entity(queue)
        if queue.exchange.name:
            entity.declare()
        else:
            entity.queue_declare()

    def close(self) -> None:
        """Disconnect; never raises what a lost connection raises."""
        with suppress(*self.lost, *self.refused):
            self.connection.release()


class KombuDelivery(Delivery):
    """One message on loan."""

    __slots__ = ("_consumer", "_message")

    def __init__(self, payload: Payload, queue: str, deliveries: int, consumer: KombuConsumer, message: Any) -> None:
        self.payload = payload
        self.queue = queue
        self.deliveries = deliveries
        self._consumer = consumer
        self._message = message

    def ack(self) -> None:
        """The message is done with."""
        self._settle("ack")

    def reject(self, *, requeue: bool) -> None:
        """Give the message back, or drop it."""
        self._settle("requeue" if requeue else "reject")

    def _settle(self, how: str) -> None:
        message, self._message = self._message, None
        if message is not None:
            self._consumer.settle(message, how)


class KombuProducer(Producer):
    """Publishes through kombu; thread-safe, fork-safe."""

    def __init__(self, connect: Callable[[], Broker]) -> None:
        self._connect = connect
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._broker: Broker | None = connect()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all of `messages`, one after another: kombu knows no batches."""
        kombu = _kombu()
        with self._held() as broker, broker.errors():
            producer = kombu.Producer(broker.channel, auto_declare=False)
            for message in messages:
                try:
                    producer.publish(
                        message.body,
                        routing_key=message.routing_key,
                        exchange=message.exchange,
                        content_type=message.content_type,
                        content_encoding=message.content_encoding,
                        headers=message.headers,
                        delivery_mode=message.delivery_mode,
                        priority=message.priority,
                        expiration=None if message.expiration is None else message.expiration / 1000,
                        **_properties(message),
                    )
                except (TypeError, ValueError) as error:
                    raise PublishRefused(
                        f"the message {message.headers.get('id')!r} cannot be sent: {error}"
                    ) from error

    def declare(self, queues: Iterable[Queue]) -> None:
        """Create exchanges, queues and bindings that do not exist."""
        with self._held() as broker, broker.errors():
            for queue in queues:
                broker.declare(queue)

    @contextmanager
    def _held(self) -> Iterator[Broker]:
        if self._pid != os.getpid():
            # The parent's connection and lock are the parent's.
            self._pid, self._lock, self._broker = os.getpid(), threading.Lock(), None
        with self._lock:
            if self._broker is None:
                self._broker = self._connect()
            try:
                yield self._broker
            except ConnectionLost:
                broken, self._broker = self._broker, None
                if broken is not None:
                    broken.close()
                raise

    def close(self) -> None:
        """Close the connection; harmless when closed."""
        if self._pid == os.getpid():
            broker, self._broker = self._broker, None
            if broker is not None:
                broker.close()


def _properties(message: Outgoing) -> dict[str, Any]:
    properties = dict(message.properties or {})
    if message.correlation_id is not None:
        properties.setdefault("correlation_id", message.correlation_id)
    if message.reply_to is not None:
        properties.setdefault("reply_to", message.reply_to)
    return properties


class Ticker:
    """Makes a descriptor readable some time after `arm`; a thread of its own, which sleeps for good while disarmed."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._pause = FIRST_PAUSE
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._armed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="kombu-ticker", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._read.fileno()

    def arm(self, *, found: bool) -> None:
        """Tick once, after a pause that grows while nothing is `found`."""
        self._pause = FIRST_PAUSE if found else min(self._pause * 2, self._longest)
        self._armed.set()

    def drain(self) -> None:
        """Forget ticks that have come."""
        with suppress(BlockingIOError):
            while self._read.recv(64):
                pass

    def _tick(self) -> None:
        while True:
            self._armed.wait()
            if self._closed.wait(self._pause):
                return
            self._armed.clear()
            with suppress(OSError):
                self._write.send(b"\0")

    def close(self) -> None:
        """End the thread and close the descriptor."""
        self._closed.set()
        self._armed.set()
        self._thread.join()
        self._read.close()
        self._write.close()


class KombuConsumer(Consumer):
    """Asks each queue in turn."""

    def __init__(self, broker: Broker, polling_interval: float) -> None:
        self._broker = broker
        self._dead = False
        self._queues: deque[Queue] = deque()
        self._pending: list[tuple[Any, str]] = []
        #: On loan, by identity: kombu's messages are not all hashable.
        self._loans: dict[int, Any] = {}
        self._ticker = Ticker(polling_interval)

    def add_queue(self, queue: Queue) -> None:
        """Declare `queue` and consume from it too."""
        self._check()
        if any(known.name == queue.name for known in self._queues):
            return
        with self._errors():
            self._broker.declare(queue)
        self._queues.append(queue)
        self._ticker.arm(found=True)

    def cancel_queue(self, name: str) -> None:
        """Stop consuming from `name`."""
        self._queues = deque(queue for queue in self._queues if queue.name != name)

    def fetch(self, limit: int) -> Sequence[Delivery]:
        """Send pending settlements and return up to `limit` deliveries, the queues taking turns."""
        self._check()
        self._ticker.drain()
        found: list[Delivery] = []
        with self._errors():
            self._send_pending()
            empty = 0
            while len(found) < limit and empty < len(self._queues):
                queue = self._queues[0]
                self._queues.rotate(-1)
                message = self._broker.channel.basic_get(queue.name, no_ack=queue.no_ack)
                if message is None:
                    empty += 1
                    continue
                empty = 0
                found.append(self._delivery(message, queue))
        if len(found) < limit:
            self._ticker.arm(found=bool(found))
        return found

    def _delivery(self, message: Any, queue: Queue) -> KombuDelivery:
        body = message.body
        properties = _plain(message.properties or {})
        information = message.delivery_info or {}
        properties["delivery_info"] = {
            "exchange": information.get("exchange"),
            "routing_key": information.get("routing_key"),
            "redelivered": bool(information.get("redelivered")),
        }
        payload: Payload = (
            _plain(message.headers or {}),
            properties,
            message.content_type or JSON,
            message.content_encoding or UTF8,
            body.encode() if isinstance(body, str) else bytes(body),
        )
        if not queue.no_ack:
            self._loans[id(message)] = message
        return KombuDelivery(
            payload, queue.name, 1 if information.get("redelivered") else 0, self, None if queue.no_ack else message
        )

    def settle(self, message: Any, how: str) -> None:
        """Remember what became of `message`: ``ack``, ``reject`` or ``requeue``."""
        self._loans.pop(id(message), None)
        self._pending.append((message, how))

    def flush(self) -> None:
        """Send pending settlements."""
        self._check()
        with self._errors():
            self._send_pending()

    def _send_pending(self) -> None:
        pending, self._pending = self._pending, []
        for message, how in pending:
            getattr(message, how)()

    def fileno(self) -> int:
        """Return the descriptor that ticks."""
        self._check()
        return self._ticker.fileno()

    def close(self, *, requeue: bool) -> None:
        """Send pending settlements, give back what is on loan if `requeue`, and disconnect."""
        if self._dead:
            return
        if requeue:
            for message in list(self._loans.values()):
                self.settle(message, "requeue")
        with suppress(TransportError), self._errors():
            self._send_pending()
        self._dead = True
        self._ticker.close()
        self._broker.close()

    def _check(self) -> None:
        if self._dead:
            raise ConnectionLost(f"the connection to {self._broker.display_url} is closed")

    def _errors(self) -> Any:
        return self._broker.errors()


def _plain(value: Any) -> Any:
    """Return `value` with nothing in it that `marshal` cannot carry."""
    if value is None or isinstance(value, (str, int, float, bytes)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)


class KombuTransport(Transport):
    """The driver of last resort."""

    options_type: ClassVar[type[msgspec.Struct]] = KombuOptions
    traits: ClassVar[TransportTraits] = TransportTraits(fanout=False, priorities=False)

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        super().__init__(url, options, settings)
        self._lock = threading.Lock()
        self._admin: Broker | None = None

    @property
    def display_url(self) -> str:
        """The URL for people: no password."""
        return without_password(self.url)

    def _connect(self) -> Broker:
        return Broker(self.url, self.options, self.settings)

    def producer(self) -> Producer:
        """Connect and return a producer. Raises `ConnectionLost`."""
        return KombuProducer(self._connect)

    def consumer(self) -> Consumer:
        """Connect and return a consumer of no queues yet. Raises `ConnectionLost`."""
        return KombuConsumer(self._connect(), self.options.polling_interval)

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue; None when there is no such queue, or the broker cannot count."""
        with self._asking() as broker:
            return {queue.name: self._size(broker, queue.name) for queue in queues}

    @staticmethod
    def _size(broker: Broker, name: str) -> int | None:
        try:
            with broker.errors():
                return int(broker.channel.queue_declare(name, passive=True).message_count)
        except ConnectionLost:
            raise
        except (TransportError, NotImplementedError):
            return None

    def purge(self, queue: Queue) -> int:
        """Drop what waits in `queue` and return how much that was."""
        with self._asking() as broker, broker.errors():
            return int(broker.channel.queue_purge(queue.name) or 0)

    @contextmanager
    def _asking(self) -> Iterator[Broker]:
        with self._lock:
            if self._admin is None:
                self._admin = self._connect()
            try:
                yield self._admin
            except ConnectionLost:
                broken, self._admin = self._admin, None
                if broken is not None:
                    broken.close()
                raise

    def info(self) -> dict[str, Any]:
        """Return the connection's parameters for `inspect stats`."""
        from kombu.utils.url import parse_url

        known = parse_url(self.url.partition(";")[0])
        return {
            "hostname": known["hostname"],
            "port": known["port"],
            "userid": known["userid"],
            "virtual_host": known["virtual_host"],
            "transport": known["transport"],
            # By name only: there may be secrets among them.
            "transport_options": sorted(self.options.transport_options),
            "uri_prefix": None,
            "ssl": bool(self.settings.get("use_ssl")),
            "heartbeat": self.settings.get("heartbeat") or 0,
            "connect_timeout": self.settings.get("connection_timeout") or 4.0,
            "login_method": self.settings.get("login_method"),
            "insist": False,
        }

    def close(self) -> None:
        """Close the connection that `sizes` and `purge` share."""
        with self._lock:
            broker, self._admin = self._admin, None
        if broker is not None:
            broker.close()
