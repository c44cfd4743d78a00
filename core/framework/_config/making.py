"""A lock for what a process makes on first use: connections, registries, settings.

It is one lock a process, because the parts of an application make each other. A child has a lock of its own: another
thread of its parent may have held this one at the fork.
"""

from __future__ import annotations

import os
import threading

_lock = threading.RLock()


def making() -> threading.RLock:
    """Return the lock to hold while something is made that must be there once; the owner can take it again."""
    return _lock


def _renew() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew)
