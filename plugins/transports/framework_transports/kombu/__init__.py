"""Transport for other brokers that kombu supports, such as ``sqs://``, ``filesystem://``, ``mongodb://``.

1. `KombuTransport` publishes and fetches through kombu's own channel; it has no fan-out, hence no remote control.
2. `KombuConsumer` polls its queues in turn. These brokers cannot wake a client, so a `PollTimer` makes its descriptor
   readable while it is idle: soon after a message, ever more rarely without one.
3. The safety of a fetched message depends on kombu's transport: `filesystem` deletes a message when it is fetched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import msgspec

from framework.api.transport import Consumer, Producer, Queue, Transport, TransportTraits
from framework.exceptions import ConnectionLost, TransportError
from framework.server_url import mask
from framework_transports.kombu.broker import KombuBroker, library
from framework_transports.kombu.consumer import KombuConsumer
from framework_transports.kombu.producer import KombuProducer


class KombuOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of the kombu transport, ``[transport.kombu]``."""

    polling_interval: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between two polls of empty queues, at most.")
    ] = 1.0
    transport_options: Annotated[
        dict[str, Any], msgspec.Meta(description="Options of kombu's transport, such as data_folder_in or region.")
    ] = {}


class KombuTransport(Transport):
    """Transport for any broker that kombu supports."""

    options_type: ClassVar[type[msgspec.Struct]] = KombuOptions
    traits: ClassVar[TransportTraits] = TransportTraits(fanout=False)

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        super().__init__(url, options, settings)
        self._lock = threading.Lock()
        self._admin: KombuBroker | None = None

    @classmethod
    def accepts(cls, scheme: str) -> bool:
        """Say whether kombu has a transport for `scheme`."""
        # Start-up time: asked only about a scheme that no plugin has as its name.
        from kombu.transport import TRANSPORT_ALIASES

        return scheme.partition("+")[0] in TRANSPORT_ALIASES

    @property
    def display_url(self) -> str:
        """The URL for display, without the password."""
        return mask(self.url)

    def _connect(self) -> KombuBroker:
        return KombuBroker(self.url, self.options.transport_options, self.settings)

    def producer(self) -> Producer:
        """Connect and return a producer. Raises `ConnectionLost`."""
        return KombuProducer(self._connect)

    def consumer(self) -> Consumer:
        """Connect and return a consumer of no queues yet. Raises `ConnectionLost`."""
        return KombuConsumer(self._connect(), self.options.polling_interval)

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue; None if it does not exist, or the broker cannot count."""
        with self._admin_broker() as broker:
            return {queue.name: self._size(broker, queue.name) for queue in queues}

    @staticmethod
    def _size(broker: KombuBroker, name: str) -> int | None:
        try:
            with broker.errors():
                return int(broker.channel.queue_declare(name, passive=True).message_count)
        except ConnectionLost:
            raise
        except (TransportError, NotImplementedError):
            return None

    def purge(self, queue: Queue) -> int:
        """Drop the waiting messages of `queue`, and return how many there were."""
        with self._admin_broker() as broker, broker.errors():
            return int(broker.channel.queue_purge(queue.name) or 0)

    @contextmanager
    def _admin_broker(self) -> Iterator[KombuBroker]:
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
        known = library("kombu.utils.url").parse_url(self.url.partition(";")[0])
        return {
            "hostname": known["hostname"],
            "port": known["port"],
            "userid": known["userid"],
            "virtual_host": known["virtual_host"],
            "transport": known["transport"],
            # Names only, because the values may contain secrets.
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
