"""Every limit and every command on every pool: what happens is what the table in docs/pools.md says.

`make matrices` (TEST_WRITE_DOCS=1) writes the table from what it observes.
"""

from __future__ import annotations

import os

import pytest

from support import poolfleet, poolmatrix


@pytest.mark.parametrize("pool", poolfleet.POOLS)
def test_the_manual_says_what_happens(pool, request, tmp_path):
    with poolfleet.running(request, "redis", pool, tmp_path, **poolmatrix.CONF) as fleet:
        observed = poolmatrix.observe(fleet)
    if os.environ.get("TEST_WRITE_DOCS"):
        poolmatrix.tell(pool, observed)
    assert poolmatrix.told(pool) == observed, "run `make matrices` and see what has changed"
