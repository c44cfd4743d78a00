"""Chords and saved groups in a SQLite file.

Keeps one row a chord and one row a part. `return_part` keeps the part, counts the parts and takes the turn in one write
transaction, so that exactly one of several callers gets the turn. `begin_chord` deletes expired rows.
"""

from __future__ import annotations

import math
import time
from typing import Final

from framework.api.result_store import ChordPart, ResultStore, Turn
from framework_drivers.sqlite.database import Database

_SCHEMA: Final = """
CREATE TABLE framework_chords (
    group_id TEXT PRIMARY KEY, size INTEGER, more INTEGER NOT NULL DEFAULT 0, token TEXT, held_until REAL,
    over_until REAL, expires REAL
) STRICT, WITHOUT ROWID;
CREATE TABLE framework_chord_parts (
    group_id TEXT NOT NULL, task_id TEXT NOT NULL, place REAL NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (group_id, task_id, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE framework_groups (group_id TEXT PRIMARY KEY, document BLOB NOT NULL, expires REAL) STRICT, WITHOUT ROWID;
CREATE INDEX framework_chords_expires ON framework_chords (expires) WHERE expires IS NOT NULL;
CREATE INDEX framework_groups_expires ON framework_groups (expires) WHERE expires IS NOT NULL"""

_LAST_PLACE: Final = math.inf


class SqliteChords(ResultStore):
    """Base of `SqliteStore` for chords and saved groups, with a database connection of its own."""

    path: str
    _chords: Database

    def _open_chords(self) -> Database:
        return self._open("chords", _SCHEMA)

    def _open(self, part: str, schema: str) -> Database:
        return Database(
            self.path,
            part=part,
            version=1,
            schema=schema,
            synchronous=self.options.synchronous,
            busy_timeout=self.options.busy_timeout,
        )

    def _until(self, lifetime: float, now: float) -> float | None:
        """Return when what is kept for `lifetime` seconds expires; None: never."""
        return now + lifetime if lifetime > 0 else None

    def begin_chord(self, group_id: str, size: int) -> None:
        """Expect `size` parts."""
        now = time.time()
        with self._chords.write() as connection:
            connection.execute(
                "DELETE FROM framework_chord_parts WHERE group_id IN "
                "(SELECT group_id FROM framework_chords WHERE expires <= ?)",
                (now,),
            )
            connection.execute("DELETE FROM framework_chords WHERE expires <= ?", (now,))
            connection.execute("DELETE FROM framework_groups WHERE expires <= ?", (now,))
            connection.execute(
                "INSERT INTO framework_chords (group_id, size, expires) VALUES (?, ?, ?) "
                "ON CONFLICT (group_id) DO UPDATE SET size = excluded.size, token = NULL, held_until = NULL, "
                "over_until = NULL, expires = excluded.expires",
                (group_id, size, self._until(self.context.chord_lifetime, now)),
            )

    def grow_chord(self, group_id: str, count: int = 1) -> None:
        """Expect `count` parts more."""
        with self._chords.write() as connection:
            connection.execute(
                "INSERT INTO framework_chords (group_id, more, expires) VALUES (?, ?, ?) "
                "ON CONFLICT (group_id) DO UPDATE SET more = more + excluded.more",
                (group_id, count, self._until(self.context.chord_lifetime, time.time())),
            )

    def return_part(self, part: ChordPart, token: str, claim: float) -> Turn:
        """Keep `part`, and return the turn."""
        now = time.time()
        with self._chords.write() as connection:
            row = connection.execute(
                "SELECT size + more, token, held_until, over_until FROM framework_chords "
                "WHERE group_id = ? AND (expires IS NULL OR expires > ?)",
                (part.group_id, now),
            ).fetchone()
            if row is None:
                return Turn.OVER
            wanted, holder, held_until, over_until = row
            if over_until is not None and over_until > now:
                return Turn.OVER
            connection.execute(
                "INSERT OR IGNORE INTO framework_chord_parts VALUES (?, ?, ?, ?)",
                (part.group_id, part.task_id, _LAST_PLACE if part.index is None else part.index, part.value),
            )
            if wanted is None:
                return Turn.OVER
            connection.execute(
                "UPDATE framework_chords SET expires = ? WHERE group_id = ?",
                (self._until(self.context.chord_lifetime, now), part.group_id),
            )
            (kept,) = connection.execute(
                "SELECT count(*) FROM framework_chord_parts WHERE group_id = ?", (part.group_id,)
            ).fetchone()
            if kept != wanted:
                return Turn.WAIT
            if holder not in (None, token) and held_until > now:
                return Turn.TAKEN
            connection.execute(
                "UPDATE framework_chords SET token = ?, held_until = ? WHERE group_id = ?",
                (token, now + claim, part.group_id),
            )
            return Turn.MINE

    def chord_parts(self, group_id: str) -> list[bytes]:
        """Return the parts, in the order of the header."""
        with self._chords.read() as connection:
            rows = connection.execute(
                "SELECT value FROM framework_chord_parts WHERE group_id = ? ORDER BY place, value", (group_id,)
            ).fetchall()
        return [value for (value,) in rows]

    def hold_turn(self, group_id: str, token: str, claim: float) -> bool:
        """Extend the turn; return whether the caller holds it."""
        now = time.time()
        with self._chords.write() as connection:
            changed = connection.execute(
                "UPDATE framework_chords SET token = ?, held_until = ? WHERE group_id = ? AND size IS NOT NULL "
                "AND over_until IS NULL AND (token = ? OR token IS NULL OR held_until <= ?)",
                (token, now + claim, group_id, token, now),
            )
            return changed.rowcount == 1

    def end_chord(self, group_id: str, token: str, remember: float) -> bool:
        """Drop the chord; return False if the caller does not hold the turn."""
        until = time.time() + remember
        with self._chords.write() as connection:
            changed = connection.execute(
                "UPDATE framework_chords SET size = NULL, more = 0, token = NULL, held_until = NULL, over_until = ?, "
                "expires = ? WHERE group_id = ? AND token = ?",
                (until, until, group_id, token),
            )
            if changed.rowcount != 1:
                return False
            connection.execute("DELETE FROM framework_chord_parts WHERE group_id = ?", (group_id,))
            return True

    def fail_chord(self, group_id: str) -> None:
        """End the chord: without a size, later parts are ignored."""
        with self._chords.write() as connection:
            connection.execute("UPDATE framework_chords SET size = NULL WHERE group_id = ?", (group_id,))

    def save_group(self, group_id: str, document: bytes) -> None:
        """Keep the group's document, as long as results are kept."""
        with self._chords.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO framework_groups VALUES (?, ?, ?)",
                (group_id, document, self._until(self.context.expires, time.time())),
            )

    def fetch_group(self, group_id: str) -> bytes | None:
        """Return the group's document."""
        with self._chords.read() as connection:
            row = connection.execute(
                "SELECT document FROM framework_groups WHERE group_id = ? AND (expires IS NULL OR expires > ?)",
                (group_id, time.time()),
            ).fetchone()
        return None if row is None else row[0]

    def forget_group(self, group_id: str) -> None:
        """Drop the group's document."""
        with self._chords.write() as connection:
            connection.execute("DELETE FROM framework_groups WHERE group_id = ?", (group_id,))
