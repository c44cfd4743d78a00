"""The tables of the embedded broker, and how to open its file.

1. ``queues``, ``exchanges``, ``bindings``: the topology, with one counter that changes with any of them, so that a
   producer knows when its cached routes are outdated.
2. ``messages``: waiting (`owner` null) or unacknowledged (`owner` is a consumer). They are served by priority, then
   id: a requeued message has a smaller id than later ones, so it is at the front again.
3. ``consumers``: the consumers with a lease, its deadline, and the token of their doorbell.
4. ``boxes`` and ``mail``: fan-out. Each subscription of a mailbox has a box, which receives a copy of each message.

Times are on the system's monotonic clock, which all processes of a machine share. It restarts with the machine, so a
time too far ahead is from before a restart, and has passed.
"""

from __future__ import annotations

from typing import Final

from framework_drivers.sqlite.database import Database, Synchronous
from framework_transports.sqlite.reserve import Reserve

PART: Final = "broker"
VERSION: Final = 1

#: Kinds of doorbell, see `framework_drivers.sqlite.doorbell`.
CONSUMER_BELL: Final = "q"
MAILBOX_BELL: Final = "m"

_TOPOLOGY_TRIGGERS: Final = ";\n".join(
    f"CREATE TRIGGER framework_{table}_{event.lower()} AFTER {event} ON framework_{table} "
    "BEGIN UPDATE framework_topology SET version = version + 1; END"
    for table in ("queues", "exchanges", "bindings", "boxes")
    for event in ("INSERT", "DELETE")
)

SCHEMA: Final = f"""
CREATE TABLE framework_topology (version INTEGER NOT NULL) STRICT;
INSERT INTO framework_topology VALUES (1);
CREATE TABLE framework_exchanges (name TEXT PRIMARY KEY, type TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE framework_queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, auto_delete INTEGER NOT NULL
) STRICT;
CREATE TABLE framework_bindings (
    exchange TEXT NOT NULL, routing_key TEXT NOT NULL, queue INTEGER NOT NULL,
    PRIMARY KEY (exchange, routing_key, queue)
) STRICT, WITHOUT ROWID;
CREATE TABLE framework_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, priority INTEGER NOT NULL,
    owner INTEGER, deliveries INTEGER NOT NULL DEFAULT 0, payload BLOB NOT NULL
) STRICT;
CREATE INDEX framework_ready ON framework_messages (queue, priority, id) WHERE owner IS NULL;
CREATE INDEX framework_loans ON framework_messages (owner) WHERE owner IS NOT NULL;
CREATE TABLE framework_consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, bell TEXT NOT NULL, lease REAL NOT NULL, deadline REAL NOT NULL
) STRICT;
CREATE TABLE framework_subscriptions (
    consumer INTEGER NOT NULL, queue INTEGER NOT NULL, PRIMARY KEY (consumer, queue)
) STRICT, WITHOUT ROWID;
CREATE TABLE framework_boxes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    bell TEXT NOT NULL
) STRICT;
CREATE TABLE framework_mail (
    id INTEGER PRIMARY KEY AUTOINCREMENT, box INTEGER NOT NULL, arrived REAL NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE INDEX framework_mail_by_box ON framework_mail (box, id);
{_TOPOLOGY_TRIGGERS}"""


class BrokerDatabase(Database):
    """A connection to the broker's file; the last one to close removes the reserve."""

    def close(self) -> None:
        """Close; harmless when closed."""
        super().close()
        Reserve(self.path).leave()


class BrokerFile:
    """Opens the broker's file, with a `Database` for each producer, consumer and mailbox."""

    def __init__(self, path: str, synchronous: Synchronous, busy_timeout: float) -> None:
        self.path = path
        self._reserve = Reserve(path)
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout

    def open(self, synchronous: Synchronous | None = None) -> Database:
        """Connect, and create the file and its tables if they are missing. Raises `ConnectionLost`."""
        database = BrokerDatabase(
            self.path,
            part=PART,
            version=VERSION,
            schema=SCHEMA,
            synchronous=synchronous or self._synchronous,
            busy_timeout=self._busy_timeout,
        )
        database.open()
        self._reserve.keep()
        return database
