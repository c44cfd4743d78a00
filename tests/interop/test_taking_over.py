"""What a killed worker had taken, a Celery one or one of ours, is run by one of ours (acceptance S 229)."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from support import celeryproj, ledger, queues, workers
from support.held import LONG
from support.wait import wait_for

#: Seconds: what Celery calls the visibility timeout, and our leases.
SOON = 1.0
HEIR = json.dumps({"broker_transport_options": {"visibility_timeout": SOON, "lease": SOON}})
COUNT = 4


@pytest.mark.acceptance(229)
@pytest.mark.parametrize("theirs", [True, False], ids=["celerys", "ours"])
def test_what_a_killed_worker_had_taken_runs_again(theirs: bool, redis_url: str, tmp_path: Path) -> None:
    book, gate = tmp_path / "ledger", tmp_path / "gate"
    where = {"broker": redis_url, "ledger": book}
    start = workers.start_celery_worker if theirs else workers.start_worker
    env = workers.app_environment(**where) if theirs else workers.app_environment(**where, conf=HEIR)

    def told() -> dict[str, list[tuple[str, str, int]]]:
        """Return by entry what each of its runs has written: node, redelivered, deliveries."""
        runs: dict[str, list[tuple[str, str, int]]] = {}
        for line in ledger.lines(book):
            entry, node, redelivered, deliveries = line.split()
            runs.setdefault(entry, []).append((node, redelivered, int(deliveries)))
        return runs

    def taken() -> int:
        """Return how many messages the worker holds. A Celery worker loses what it has fetched and not yet noted."""
        if not theirs:
            return COUNT - queues.waiting(redis_url)
        with redis.Redis.from_url(redis_url) as client:
            return int(client.hlen("unacked"))

    with celeryproj.closing(celeryproj.make_app(redis_url)) as app:
        options = ("-P", "threads", "-c", "1", "--prefetch-multiplier", str(COUNT), "-n", "dead@here")
        with start(None, *options, env=env) as dead:
            dead.wait_ready()
            for number in range(COUNT):
                app.tasks["proj.outlive"].delay(str(gate), f"e{number}")
            wait_for(lambda: told() and taken() == COUNT, LONG, "it to have taken all of them")
            (first,) = told()
            dead.signal(signal.SIGKILL)
            dead.wait()
        gate.touch()
        heir: Any = workers.app_environment(**where, conf=HEIR)
        with workers.start_worker(None, "-P", "prefork", "-c", "2", "-n", "heir@here", env=heir) as worker:
            again = ("heir@here", "True", 1)
            expected = {f"e{number}": [again] for number in range(COUNT)}
            expected[first] = [("dead@here", "False", 0), again]
            wait_for(lambda: sum(map(len, told().values())) >= COUNT + 1, LONG, lambda: f"{told()}: {worker.output}")
            assert worker.stop() == 0
    assert told() == expected
    assert queues.waiting(redis_url) == 0
