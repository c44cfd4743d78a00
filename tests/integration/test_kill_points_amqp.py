"""RabbitMQ: a worker is killed at one point of a task's way after the other, and nothing vanishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import killbooks


# Threads begin sooner, and the points are those of the worker's main process.
@pytest.mark.parametrize(("kind", "pool", "seed"), [("classic", "prefork", 3), ("quorum", "threads", 4)])
def test_a_worker_killed_at_each_point_loses_nothing(
    kind: str, pool: str, seed: int, amqp_url: str, sqlite_url: str, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    # The results are elsewhere: the broker keeps none that nobody waits for.
    conf = {**killbooks.CONF, "task_default_queue_type": kind}
    killbooks.check(amqp_url, sqlite_url, seed, conf, start_worker, client, ledger_path, pool)
