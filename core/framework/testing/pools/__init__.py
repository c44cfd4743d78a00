"""The conformance suite of pools: every promise of `framework.api.pool` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.pools import PoolSuite

    class TestAcmePool(PoolSuite):
        pool = "acme"

1. Skips tests that need a trait which the pool does not have; pytest's summary names the trait.
2. Tests a pool that patches the interpreter in a child process that is patched before any other import; gives a pool
   with the trait `main_thread` pytest's main thread.
3. `jobs`, `limits`, `slots`, `stopping`, `patching` hold the tests by subject; `base` holds the attributes of a suite.
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
    """Tests every promise of a pool. Subclass it, name the class ``Test…``, and set `pool`."""
