"""The shared rate limit: one row for each limit, on the clock that all processes of this machine share.

Its table is a separate part of the broker's file, so that older files stay usable.
"""

from __future__ import annotations

import time
from typing import Final

from framework.api.transport import SharedRateLimit
from framework_drivers.sqlite.database import Database, Synchronous

PART: Final = "turnstile"
VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE framework_starts (name TEXT PRIMARY KEY, free REAL NOT NULL, seen REAL NOT NULL) STRICT, WITHOUT ROWID;
"""
_FIND: Final = "SELECT free, seen FROM framework_starts WHERE name = ?"
_STORE: Final = "INSERT OR REPLACE INTO framework_starts VALUES (?, ?, ?)"
_DELETE_OLD: Final = "DELETE FROM framework_starts WHERE free < :now OR seen > :now"


class SqliteSharedRateLimit(SharedRateLimit):
    """Reserves starts in the broker's file."""

    def __init__(self, path: str, synchronous: Synchronous, busy_timeout: float) -> None:
        self._database = Database(
            path, part=PART, version=VERSION, schema=SCHEMA, synchronous=synchronous, busy_timeout=busy_timeout
        )
        self._database.open()

    def reserve(self, name: str, interval: float, count: int) -> float:
        """Reserve the next `count` starts of `name`; return the seconds until the first."""
        with self._database.write() as connection:
            # Read inside the transaction, so that it is later than all times that others have written.
            now = time.monotonic()
            row = connection.execute(_FIND, (name,)).fetchone()
            # A time of writing in the future is from before the machine restarted, and its clock with it.
            first = now if row is None or row[1] > now else max(now, row[0])
            if row is None:
                connection.execute(_DELETE_OLD, {"now": now})
            connection.execute(_STORE, (name, first + interval * count, now))
        return first - now

    def close(self) -> None:
        """Disconnect; harmless when closed."""
        self._database.close()
