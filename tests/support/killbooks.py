"""A worker is killed at one point of a task's way after the other, and the books are closed.

1. `check` sends tasks, has a worker kill itself at each of `killpoints.POINTS`, and lets a last one finish.
2. Nothing may be missing; what ran again was under way at one of the kills.
"""

from __future__ import annotations

import random
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import redis

from framework_transports.sqlite import SqliteTransport
from support import ledger, queues
from support.held import LONG
from support.killpoints import POINTS
from support.wait import wait_for

TASKS = 150
CONF = {"task_max_deliveries": 100, "worker_prefetch_multiplier": 4}


def check(
    url: str,
    backend: str,
    seed: int,
    conf: dict[str, Any],
    start_worker: Any,
    client: Any,
    ledger_path: Path,
    pool: str = "prefork",
) -> None:
    """Kill workers that run late-ack tasks from the broker at `url`; `seed` chooses when."""
    rng = random.Random(seed)
    app = client(url, backend, **conf)
    results = app.send_many(app.tasks["proj.sleep_late"].si(0.002, number) for number in range(TASKS))
    points = rng.sample(sorted(POINTS), len(POINTS))
    said = []
    for point in points:
        worker = start_worker(
            *("-P", pool, "-c", "2", "-n", f"{point}@here"),
            app="support.killpoints",
            app_dir=Path(__file__).parent.parent,
            broker=url,
            backend=backend,
            ledger=ledger_path,
            conf=conf,
            env={"TEST_KILL_AT": f"{point}:{rng.randint(1, 4)}"},
            ready=False,
        )
        assert worker.wait(LONG) == -signal.SIGKILL, worker.output
        said.append(worker.output[-500:])
    last = start_worker("-P", pool, "-c", "2", broker=url, backend=backend, ledger=ledger_path, conf=conf)
    assert results.join(timeout=LONG, propagate=False) == [0.002] * TASKS, f"{points} {said} {last.output[-2000:]}"
    wait_for(lambda: unfinished(url) == 0, LONG, lambda: f"{unfinished(url)} messages; {last.output[-2000:]}")
    assert last.stop() == 0
    assert unfinished(url) == 0
    book = ledger.read(ledger_path)
    assert set(book) == {f"{what}:{number}" for what in ("start", "end") for number in range(TASKS)}
    # Again only what was under way at one of the kills.
    assert max(book.values()) <= 1 + len(points)
    assert sum(book.values()) < 2 * TASKS * 2
    assert queues.waiting(url, "celery.dlq") == 0


def unfinished(url: str) -> int:
    """Return how many messages wait or are on loan."""
    if url.startswith("sqlite"):
        file = SqliteTransport(url, SqliteTransport.options_type(), {})._file
        with closing(file.open()) as database, database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM framework_messages").fetchone()[0])
    if url.startswith("amqp"):
        # What is on loan is seen when the last worker has stopped.
        return queues.waiting(url)
    with redis.Redis.from_url(url) as server:
        return queues.waiting(url) + sum(server.hlen(key) for key in server.scan_iter("framework.lease.*"))
