"""The pool of processes before the suite for pools."""

from __future__ import annotations

import pytest

from framework.testing.pools import PoolSuite

pytestmark = pytest.mark.acceptance(103, 104, 109, 201, 202, 203, 204)


class TestPrefork(PoolSuite):
    pool = "prefork"
    many = 20_000
