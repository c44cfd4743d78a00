"""The embedded broker: queues, exchanges, fan-out and leases in one SQLite file, for many processes of one machine.

`sqlite:///relative.db`, `sqlite:////absolute.db`, or `sqlite://` for ``framework.db`` in the current
directory. What is used when no broker is configured.

* A *lower* priority number is served first, as on Redis and unlike AMQP: 0 is the default and the highest.
* Messages are kept in the JSON envelope of the Redis transport.
* One file in write-ahead mode; beside it ``-wal``, ``-shm`` and the directory ``-wake`` with the sockets
  through which sleeping processes are woken. All of it must be on a local disk: SQLite's shared memory
  knows no network.
* ``schema`` describes the tables; ``producer``, ``consumer`` and ``mailbox`` are the three faces of a transport,
  ``topology`` and ``publish`` what they share, ``housekeeping`` what the dead leave behind, ``admin`` the
  view from outside.
"""

from __future__ import annotations

from framework_transports.sqlite.transport import SqliteOptions, SqliteTransport

__all__ = ["SqliteOptions", "SqliteTransport"]
