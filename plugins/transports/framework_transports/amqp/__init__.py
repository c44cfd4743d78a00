"""AMQP 0-9-1 transport, for RabbitMQ: ``amqp://user:password@host:5672/vhost``, ``amqps://`` for TLS.

1. `AmqpTransport` reads the URL (several, separated by ``;``, for failover: `address`) and makes producers (`producer`,
   `session`), consumers (`consumer`, `settlements`) and mailboxes (`mailbox`), each with its own connection
   (`connection`, made by `connector`). `admin` measures and empties queues; `limits` asks for their policies.
2. `topology` declares queues as Celery does, so that both can share a broker; `codec` encodes and decodes frames on the
   hot path. `parking` has the broker keep messages for later, in the queues of `levels`.
3. py-amqp does the handshake and the rarely used methods; the first connection imports it.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec

from framework.api.transport import Consumer, Mailbox, Peeked, Producer, Queue, Transport, TransportTraits
from framework_transports.amqp.address import AmqpAddress, addresses
from framework_transports.amqp.broker_consumers import QosMode
from framework_transports.amqp.tries import Tries

if TYPE_CHECKING:
    from framework_transports.amqp.admin import Admin
    from framework_transports.amqp.connector import Connector
    from framework_transports.amqp.limits import DeliveryLimits


#: Seconds without a message after which no more are expected of a queue that is looked at.
_PEEK_SILENCE: Final = 1.0


class AmqpOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of the AMQP transport, ``[transport.amqp]``."""

    confirm_publish: Annotated[
        bool,
        msgspec.Meta(
            description="Wait until the broker has confirmed published messages. Without confirmation, publishing one "
            "by one is faster, but the loss of a message goes unnoticed."
        ),
    ] = True
    confirm_timeout: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds to wait for the broker's confirmation.")
    ] = 30.0
    blocked_timeout: Annotated[
        float,
        msgspec.Meta(ge=0, description="Seconds to wait while a broker short of memory or disk accepts no messages."),
    ] = 10.0
    management_url: Annotated[
        Annotated[str, msgspec.Meta(pattern=r"^https?://[^/@?#]+(/[^@?#]*)?$")] | None,
        msgspec.Meta(
            description="RabbitMQ's management API, such as http://host:15672, asked with the broker's user and "
            "password. The worker then names quorum queues whose policy drops messages; unset: it does not ask."
        ),
    ] = None


class AmqpTransport(Transport):
    """Transport for RabbitMQ."""

    options_type: ClassVar[type[msgspec.Struct]] = AmqpOptions
    options_table: ClassVar[str] = "amqp"
    traits: ClassVar[TransportTraits] = TransportTraits(fanout=True, parks=True)

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        super().__init__(url, options, settings)
        self._addresses = addresses(url, settings.get("use_ssl"))
        heartbeat = settings.get("heartbeat")
        self._heartbeat = 120 if heartbeat is None else int(heartbeat)
        self._connector_: Connector | None = None
        self._admin_: Admin | None = None
        self._mode_: QosMode | None = None
        self._tries_: Tries | None = None
        self._limits_: DeliveryLimits | None = None

    @property
    def display_url(self) -> str:
        """The brokers' URLs, without passwords."""
        return ";".join(address.display for address in self._addresses)

    def producer(self) -> Producer:
        """Connect and return a producer. Raises `ConnectionLost`."""
        from framework_transports.amqp.producer import AmqpProducer  # start-up time: py-amqp

        return AmqpProducer(self._connector(), self.options)

    def consumer(self) -> Consumer:
        """Connect and return a consumer of no queues yet. Raises `ConnectionLost`."""
        from framework_transports.amqp import consumer, limits  # start-up time: py-amqp

        if self._mode_ is None or self._tries_ is None or self._limits_ is None:
            self._mode_ = QosMode()
            self._tries_ = Tries()
            self._limits_ = limits.DeliveryLimits(self.options.management_url, self._timeout)
        connector = self._connector()
        connection = connector.connect("consumer", heartbeat=True)
        return consumer.AmqpConsumer(connection, self._mode_, self._tries_, connector, self._delayed_in, self._limits_)

    def mailbox(self) -> Mailbox:
        """Connect and return a mailbox. Raises `ConnectionLost`."""
        from framework_transports.amqp.mailbox import AmqpMailbox  # start-up time: py-amqp

        return AmqpMailbox(self._connector().connect("mailbox"))

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue; None for a queue that does not exist."""
        return self._admin().sizes(queues)

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        return self._admin().parked(queues)

    def peek(self, queue: Queue, limit: int, *, parked: bool = False) -> Sequence[Peeked] | None:
        """Return the first waiting messages of `queue`: they are taken, and given back to their places.

        The broker marks them as redelivered. It has no way to look at parked ones.
        """
        if parked:
            return None
        count = min(limit, self.sizes([queue])[queue.name] or 0)
        if not count:
            return []
        consumer = self.consumer()
        try:
            consumer.prefetch(count)
            consumer.add_queue(queue)
            found = list(consumer.fetch(count))
            # Another consumer may have been quicker.
            while len(found) < count and select.select([consumer.fileno()], [], [], _PEEK_SILENCE)[0]:
                found += consumer.fetch(count - len(found))
            for delivery in reversed(found):
                delivery.release()
            return [Peeked(delivery.payload) for delivery in found]
        finally:
            consumer.close(requeue=True)

    def purge(self, queue: Queue) -> int:
        """Drop waiting and parked messages of `queue`, and return how many there were."""
        return self._admin().purge(queue)

    def info(self) -> dict[str, Any]:
        """Return the connection's parameters for `inspect stats`."""
        address = self._current
        return {
            "hostname": address.host,
            "port": address.port,
            "userid": address.user,
            "virtual_host": address.virtual_host,
            "transport": "amqp",
            "transport_options": msgspec.to_builtins(self.options),
            "uri_prefix": None,
            "ssl": bool(address.tls),
            "heartbeat": self._heartbeat,
            "connect_timeout": self._timeout,
            "login_method": self._login_method,
            "insist": False,
            "alternates": [other.display for other in self._addresses if other is not address],
        }

    def close(self) -> None:
        """Close the connection that `sizes`, `parked` and `purge` share."""
        if self._admin_ is not None:
            self._admin_.close()

    @property
    def _current(self) -> AmqpAddress:
        return self._addresses[0] if self._connector_ is None else self._connector_.current

    @property
    def _timeout(self) -> float:
        return float(self.settings.get("connection_timeout") or 4.0)

    @property
    def _delayed_in(self) -> str:
        """Queue type of Celery's delayed delivery."""
        return str(self.settings.get("native_delayed_delivery_queue_type") or "quorum")

    @property
    def _login_method(self) -> str:
        return str(self.settings.get("login_method") or "PLAIN")

    def _connector(self) -> Connector:
        if self._connector_ is None:
            from framework_transports.amqp.connector import Connector  # start-up time: py-amqp

            self._connector_ = Connector(
                self._addresses,
                timeout=self._timeout,
                heartbeat=self._heartbeat,
                login_method=self._login_method,
                strategy=self.settings.get("failover_strategy"),
            )
        return self._connector_

    def _admin(self) -> Admin:
        if self._admin_ is None:
            from framework_transports.amqp.admin import Admin  # start-up time: py-amqp

            self._admin_ = Admin(self._connector())
        return self._admin_
