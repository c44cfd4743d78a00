"""The embedded broker's transport: its options, and one connection for each producer, consumer and mailbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import msgspec

from framework.api.transport import Peeked, Queue, Transport, TransportTraits
from framework_drivers.sqlite.database import FileOptions, database_path
from framework_transports.sqlite import admin
from framework_transports.sqlite.consumer import SqliteConsumer
from framework_transports.sqlite.mailbox import SqliteMailbox
from framework_transports.sqlite.producer import SqliteProducer
from framework_transports.sqlite.schema import BrokerFile
from framework_transports.sqlite.shared_rate_limit import SqliteSharedRateLimit


class SqliteOptions(FileOptions, kw_only=True):
    """Options of the SQLite transport, ``[transport.sqlite]``."""

    lease: Annotated[
        float,
        msgspec.Meta(
            ge=1.0,
            description="Seconds after which a hanging worker's messages are redelivered to others. "
            "A live worker renews its lease; a dead one is detected sooner.",
        ),
    ] = 30.0


class SqliteTransport(Transport):
    """Transport for the embedded broker: a file, no server."""

    options_type = SqliteOptions
    traits = TransportTraits(fanout=True, shared=True, shared_rate_limit=True, parks=True, recalls=True)

    def __init__(self, url: str, options: msgspec.Struct, settings: Mapping[str, Any]) -> None:
        super().__init__(url, options, settings)
        # Made absolute here, because a daemon changes the working directory.
        self.path = database_path(url)
        self._file = BrokerFile(self.path, self.options.synchronous, self.options.busy_timeout)

    @property
    def display_url(self) -> str:
        """The URL, which has no password."""
        return f"sqlite:///{self.path}"

    def producer(self) -> SqliteProducer:
        """Connect and return a producer."""
        return SqliteProducer(self._file.open())

    def consumer(self) -> SqliteConsumer:
        """Connect and return a consumer."""
        return SqliteConsumer(self._file.open("normal"), self.options.lease)

    def mailbox(self) -> SqliteMailbox:
        """Connect and return a mailbox."""
        return SqliteMailbox(self._file.open("normal"))

    def shared_rate_limit(self) -> SqliteSharedRateLimit:
        """Connect and return a shared rate limit."""
        return SqliteSharedRateLimit(self.path, "normal", self.options.busy_timeout)

    def sizes(self, queues: Iterable[Queue]) -> dict[str, int | None]:
        """Return how many messages wait in each queue."""
        with closing(self._file.open()) as database:
            return admin.sizes(database, queues)

    def parked(self, queues: Iterable[Queue]) -> dict[str, int]:
        """Return how many messages of each queue are parked."""
        with closing(self._file.open()) as database:
            return admin.parked(database, queues)

    def peek(self, queue: Queue, limit: int, *, parked: bool = False) -> Sequence[Peeked]:
        """Return the first waiting or parked messages of `queue`."""
        with closing(self._file.open()) as database:
            return admin.peek(database, queue, limit, parked=parked)

    def purge(self, queue: Queue) -> int:
        """Drop waiting and parked messages of `queue`, and return how many there were."""
        with closing(self._file.open()) as database:
            return admin.purge(database, queue)

    def info(self) -> dict[str, Any]:
        """Return the connection's parameters; those of a server are empty."""
        return {
            "connect_timeout": self.options.busy_timeout,
            "heartbeat": 0,
            "hostname": None,
            "insist": False,
            "login_method": None,
            "port": None,
            "ssl": False,
            "transport": "sqlite",
            "transport_options": {"lease": self.options.lease, "synchronous": self.options.synchronous},
            "uri_prefix": None,
            "userid": None,
            "virtual_host": self.path,
        }
