"""A short storm on RabbitMQ: the books balance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faults import storm

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("pool", "seed"), [("prefork", 27), ("gevent", 28)])
def test_the_books_balance_after_a_storm(pool: str, seed: int, rabbit_server: Any, tmp_path: Path) -> None:
    # Without restarts, which take longer than the whole of it.
    storm.check("amqp", pool, tmp_path, seed, rabbit_server, restarts=False)
