"""The eventlet pool: runs each job in a greenlet, switched by eventlet's hub.

The standard library is patched (``eventlet.monkey_patch``) before the application is imported. The loop and the jobs
are greenlets of one thread.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

from framework.api.pool import PoolTraits
from framework_pools._green import GreenPool, GreenSlot

with warnings.catch_warnings():
    # The manual explains eventlet's deprecation; users of this pool have chosen it.
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    import eventlet
    from eventlet import hubs, patcher


class EventletPool(GreenPool):
    """The eventlet pool: runs each job in an eventlet greenlet."""

    traits: ClassVar[PoolTraits] = PoolTraits(
        green=True, soft_limit=True, hard_limit=True, terminate=True, resize=True, restart=True
    )

    @classmethod
    def patch(cls) -> None:
        """Have eventlet replace everything that it can."""
        eventlet.monkey_patch()

    @classmethod
    def patched(cls) -> bool:
        """Say whether eventlet has replaced `socket`, and so most likely all the rest."""
        return bool(patcher.is_monkey_patched("socket"))

    def start(self) -> None:
        """Prepare the workload, and keep the scheduling function of this thread's hub."""
        self._schedule: Callable[..., object] = hubs.get_hub().schedule_call_global
        super().start()

    def spawn(self, function: Callable[[GreenSlot], object], slot: GreenSlot) -> Any:
        """Return a greenlet that will run ``function(slot)``."""
        return eventlet.spawn_n(function, slot)

    def in_hub(self, function: Callable[..., object], *args: Any) -> object:
        """Have the hub call ``function(*args)``."""
        return self._schedule(0, function, *args)

    def replace_hub(self) -> None:
        """Give this thread a new hub, which knows none of its greenlets."""
        hubs.use_hub()
