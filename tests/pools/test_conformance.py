"""Our own six pools before the suite that a stranger's pool has to pass.

The green ones run in interpreters of their own, which the suite starts by itself.
"""

from __future__ import annotations

import pytest

from framework.testing.pools import PoolSuite

pytestmark = pytest.mark.acceptance(103, 104, 109, 201, 202, 203, 204)


class TestPrefork(PoolSuite):
    pool = "prefork"
    many = 20_000


class TestThreads(PoolSuite):
    pool = "threads"
    many = 20_000


class TestGevent(PoolSuite):
    pool = "gevent"
    many = 20_000


class TestEventlet(PoolSuite):
    pool = "eventlet"
    many = 20_000


class TestAsyncio(PoolSuite):
    """Coroutines, on the event loop."""

    pool = "asyncio"
    coroutines = True
    many = 20_000


class TestAsyncioBeside(PoolSuite):
    """Jobs that are no coroutines, on threads beside the event loop."""

    pool = "asyncio"


class TestSolo(PoolSuite):
    pool = "solo"
    many = 20_000
