"""Our own pools before the suite that a stranger's pool has to pass: those that live in one process.

The others: `test_conformance_green.py`, `test_conformance_prefork.py`; files of their own can run side by side.
"""

from __future__ import annotations

import pytest

from framework.testing.pools import PoolSuite

pytestmark = pytest.mark.acceptance(103, 104, 109, 201, 202, 203, 204)


class TestThreads(PoolSuite):
    pool = "threads"
    many = 20_000


class TestAsyncio(PoolSuite):
    """Coroutines, on the event loop."""

    pool = "asyncio"
    coroutines = True


class TestAsyncioBeside(PoolSuite):
    """Jobs that are no coroutines, on threads beside the event loop."""

    pool = "asyncio"


class TestSolo(PoolSuite):
    pool = "solo"
