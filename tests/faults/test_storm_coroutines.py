"""A short storm on coroutines and functions side by side: the books balance."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import storm

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(300)
def test_the_books_balance_after_a_storm(redis_server: object, tmp_path: Path) -> None:
    # On a server of its own, as in `test_storm_redis`.
    storm.check("redis", "asyncio", tmp_path, 38)
