"""The embedded broker: queues, exchanges, fan-out and leases in one SQLite file, for many processes of one machine.

`sqlite:///relative.db`, `sqlite:////absolute.db`, or `sqlite://` for ``framework.db`` in the current
directory. The default broker when none is configured.

* A *lower* priority number is served first, as on Redis and unlike AMQP: 0 is the default and the highest priority.
* Messages are stored in the JSON envelope of the Redis transport.
* One file in write-ahead mode; beside it ``-wal``, ``-shm``, ``-reserve`` (room for consumers on a full disk) and the
  directory ``-wake`` with the sockets that wake sleeping processes. All of them must be on a local disk, because
  SQLite's shared memory does not work over a network.
* ``schema`` defines the tables; ``producer``, ``consumer`` and ``mailbox`` share ``topology`` and ``publish``;
  ``housekeeping`` cleans up after dead processes; ``admin`` counts and purges messages.
"""

from __future__ import annotations

from framework_transports.sqlite.transport import SqliteOptions, SqliteTransport

__all__ = ["SqliteOptions", "SqliteTransport"]
