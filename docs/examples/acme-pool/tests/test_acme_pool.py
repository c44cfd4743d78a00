"""Whether the pool keeps its contract."""

from framework.testing.pools import PoolSuite


class TestAcmePool(PoolSuite):
    """Every promise of a pool that its traits do not rule out."""

    pool = "acme"
