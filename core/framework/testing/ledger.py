"""Accounting: compares the tasks that were sent with the tasks that ran.

1. `append` adds the id of a task with one `O_APPEND` write, which is atomic across processes.
2. `read` counts the ids; `balance` reports ids that were lost, ran twice, or were never sent.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Books(NamedTuple):
    """The result of `balance`."""

    #: Number of ids that ran exactly once.
    ok: int
    lost: list[str]
    duplicated: list[str]
    unexpected: list[str]

    @property
    def balanced(self) -> bool:
        """Whether every id that was sent ran exactly once, and no other id ran."""
        return not (self.lost or self.duplicated or self.unexpected)

    def __str__(self) -> str:
        parts = [f"{self.ok} once"]
        for name in ("lost", "duplicated", "unexpected"):
            ids = getattr(self, name)
            if ids:
                parts.append(f"{len(ids)} {name} ({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})")
        return ", ".join(parts)


def append(path: str | os.PathLike[str], entry: object) -> None:
    """Add one line to the ledger at `path`."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, f"{entry}\n".encode())
    finally:
        os.close(fd)


def lines(path: str | os.PathLike[str]) -> list[str]:
    """Return the entries in the order of writing; a missing file is an empty ledger."""
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


def size(path: str | os.PathLike[str]) -> int:
    """Return the number of entries."""
    try:
        return Path(path).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def read(path: str | os.PathLike[str]) -> Counter[str]:
    """Return how often each entry was written."""
    return Counter(lines(path))


def balance(sent: Iterable[object], path: str | os.PathLike[str]) -> Books:
    """Compare the ids `sent` with the ledger at `path`."""
    expected = [str(entry) for entry in sent]
    ran = read(path)
    known = set(expected)
    return Books(
        ok=sum(1 for entry in known if ran[entry] == 1),
        lost=sorted(entry for entry in known if not ran[entry]),
        duplicated=sorted(entry for entry in known if ran[entry] > 1),
        unexpected=sorted(set(ran) - known),
    )
