"""Ids of tasks, and the name of this process as a sender.

1. `new_id`, `new_ids`: random version 4 UUIDs, with one system call for many.
2. `origin`: ``gen<pid>@<host>``, computed again after a fork.
3. `own_queue`: the name of one worker's queue for a broadcast queue; `shared_queue` takes it back.
"""

from __future__ import annotations

import os
import re
from functools import cache

_VARIANTS = "89ab"
_OWN_QUEUE = re.compile(r"bcast\.(.+)\.[0-9a-f-]{36}")


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


def own_queue(queue: str) -> str:
    """Return a new name for the queue from which one worker consumes its copies of the messages for `queue`."""
    return f"bcast.{queue}.{new_id()}"


def shared_queue(queue: str) -> str:
    """Return the name of the broadcast queue for which `queue` was named by `own_queue`; else `queue` itself."""
    found = _OWN_QUEUE.fullmatch(queue)
    return found[1] if found else queue
