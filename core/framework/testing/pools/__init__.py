"""The conformance suite of pools: every promise of `framework.api.pool` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.pools import PoolSuite

    class TestAcmePool(PoolSuite):
        pool = "acme"

1. What the pool's traits rule out is skipped; pytest's summary says which trait it was.
2. A pool that patches the interpreter is tested in one of its own, patched before anything is imported; one with the
   trait `main_thread` gets pytest's main thread.
3. `jobs`, `limits`, `slots`, `stopping`, `patching` hold the tests by subject; `base` has what a suite may be told.
"""

from __future__ import annotations

from framework.testing.pools.base import Bench, PoolSuiteBase, needs
from framework.testing.pools.jobs import JobPromises
from framework.testing.pools.limits import LimitPromises
from framework.testing.pools.patching import PatchPromises
from framework.testing.pools.slots import SlotPromises
from framework.testing.pools.stopping import StopPromises

__all__ = ["Bench", "PoolSuite", "needs"]


class PoolSuite(JobPromises, LimitPromises, SlotPromises, StopPromises, PatchPromises, PoolSuiteBase):
    """Every promise of a pool. Subclass it, name the class ``Test…``, and set `pool`."""
