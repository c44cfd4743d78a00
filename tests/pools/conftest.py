"""The pool of processes, with or without the start method `spawn`, for tests that look into it."""

from __future__ import annotations

import pytest

from framework_pools.prefork import PreforkPool
from framework_pools.prefork.options import PreforkOptions
from support.pool_harness import TESTS, Harness


@pytest.fixture
def start_method():
    """How children are made; tests marked `both` run once with each."""
    return "fork"


@pytest.fixture
def make(tmp_path, start_method, monkeypatch):
    """Start a pool: `make(concurrency, recipe, stuck_after=…, **context)`; stopped and checked after the test."""
    made = []

    def make(concurrency=2, recipe=None, stuck_after=None, **context):
        base = {"path": [TESTS, str(tmp_path)], "ledger": str(tmp_path / "ledger"), "stamp": str(tmp_path / "stamp")}
        if stuck_after is not None:
            monkeypatch.setattr(PreforkPool, "options_type", lambda: PreforkOptions(stuck_after=stuck_after))
        harness = Harness(PreforkPool, concurrency, base | (recipe or {}), start_method=start_method, **context)
        made.append(harness)
        return harness.start()

    yield make
    for harness in made:
        harness.stop()
        harness.check()
