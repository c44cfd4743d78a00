"""Ids of tasks, and the name of this process as a sender.

1. `new_id`, `new_ids`: random version 4 UUIDs, with one system call for many.
2. `origin`: ``gen<pid>@<host>``, computed again after a fork.
"""

from __future__ import annotations

import os
from functools import cache

_VARIANTS = "89ab"


def new_id() -> str:
    """Return a random version 4 UUID as text."""
    return _format(os.urandom(16).hex())


def new_ids(count: int) -> list[str]:
    """Return `count` random version 4 UUIDs as text."""
    random = os.urandom(16 * count).hex()
    return [_format(random[start : start + 32]) for start in range(0, 32 * count, 32)]


def _format(digits: str) -> str:
    variant = _VARIANTS[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def origin() -> str:
    """Return the sender name of this process."""
    return _origin(os.getpid())


@cache
def _origin(pid: int) -> str:
    import socket  # here: at start it would cost a client some milliseconds

    return f"gen{pid}@{socket.gethostname()}"
