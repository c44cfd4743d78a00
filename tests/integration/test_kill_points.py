"""A worker is killed at one point of a task's way after the other: nothing vanishes, and nobody is left with a loan."""

from __future__ import annotations

import random
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from framework_transports.sqlite import SqliteTransport
from support import ledger, queues
from support.held import LONG
from support.killpoints import POINTS
from support.wait import wait_for

TASKS = 150
#: Seconds of a lease.
LEASE = 1.0
CONF = {"broker_transport_options": {"lease": LEASE}, "task_max_deliveries": 100, "worker_prefetch_multiplier": 4}


@pytest.mark.parametrize(("broker", "seed"), [("redis", 1), ("sqlite", 2)])
def test_a_worker_killed_at_each_point_loses_nothing(
    broker: str, seed: int, request: pytest.FixtureRequest, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    url = request.getfixturevalue(f"{broker}_url")
    rng = random.Random(seed)
    app = client(url, url, **CONF)
    results = app.send_many(app.tasks["proj.sleep_late"].si(0.002, number) for number in range(TASKS))
    points = rng.sample(sorted(POINTS), len(POINTS))
    said = []
    for point in points:
        worker = start_worker(
            *("-c", "2", "-n", f"{point}@here"),
            app="support.killpoints",
            app_dir=Path(__file__).parent.parent,
            broker=url,
            backend=url,
            ledger=ledger_path,
            conf=CONF,
            env={"TEST_KILL_AT": f"{point}:{rng.randint(1, 4)}"},
            ready=False,
        )
        assert worker.wait(LONG) == -signal.SIGKILL, worker.output
        said.append(worker.output[-500:])
    last = start_worker("-c", "2", broker=url, backend=url, ledger=ledger_path, conf=CONF)
    assert results.join(timeout=LONG, propagate=False) == [0.002] * TASKS, f"{points} {said} {last.output[-2000:]}"
    wait_for(lambda: _unfinished(url) == 0, LONG, lambda: f"{_unfinished(url)} messages; {last.output[-2000:]}")
    assert last.stop() == 0
    book = ledger.read(ledger_path)
    assert set(book) == {f"{what}:{number}" for what in ("start", "end") for number in range(TASKS)}
    # Again only what was under way at one of the kills.
    assert max(book.values()) <= 1 + len(points)
    assert sum(book.values()) < 2 * TASKS * 2
    assert queues.waiting(url, "celery.dlq") == 0


def _unfinished(url: str) -> int:
    """Return how many messages wait or are on loan."""
    if url.startswith("sqlite"):
        file = SqliteTransport(url, SqliteTransport.options_type(), {})._file
        with closing(file.open()) as database, database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM framework_messages").fetchone()[0])
    with redis.Redis.from_url(url) as server:
        return queues.waiting(url) + sum(server.hlen(key) for key in server.scan_iter("framework.lease.*"))
