"""The green pools before the suite for pools, in interpreters of their own, which the suite starts by itself."""

from __future__ import annotations

import pytest

from framework.testing.pools import PoolSuite

pytestmark = pytest.mark.acceptance(103, 104, 109, 201, 202, 203, 204)


class TestGevent(PoolSuite):
    pool = "gevent"


class TestEventlet(PoolSuite):
    pool = "eventlet"
