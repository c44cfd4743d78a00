"""The gevent pool: runs each job in a greenlet, switched by gevent's hub.

The standard library is patched (``gevent.monkey.patch_all``) before the application is imported. The loop and the jobs
are greenlets of one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gevent
from gevent import monkey
from gevent.hub import Hub, set_hub

from framework.api.pool import PoolTraits
from framework_pools._green import GreenPool, GreenSlot


class GeventPool(GreenPool):
    """The gevent pool: runs each job in a gevent greenlet."""

    traits: ClassVar[PoolTraits] = PoolTraits(
        green=True, soft_limit=True, hard_limit=True, terminate=True, resize=True, restart=True
    )

    @classmethod
    def patch(cls) -> None:
        """Have gevent replace everything that it can."""
        monkey.patch_all()

    @classmethod
    def patched(cls) -> bool:
        """Say whether gevent has replaced `socket`, and so most likely all the rest."""
        return bool(monkey.is_module_patched("socket"))

    def start(self) -> None:
        """Prepare the workload, and keep the scheduling function of this thread's hub."""
        self._in_hub: Callable[..., object] = gevent.get_hub().loop.run_callback
        super().start()

    def spawn(self, function: Callable[[GreenSlot], object], slot: GreenSlot) -> Any:
        """Return a greenlet that will run ``function(slot)``."""
        return gevent.spawn_raw(function, slot)

    def in_hub(self, function: Callable[..., object], *args: Any) -> object:
        """Have the hub call ``function(*args)``."""
        return self._in_hub(function, *args)

    def replace_hub(self) -> None:
        """Give this thread a new hub, which knows none of its greenlets."""
        set_hub(Hub(default=False))
