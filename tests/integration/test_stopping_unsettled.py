"""A worker that is stopped while nobody accepts its results or dead letters ends, and says what it could not keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import ledger, queues
from support.brokers import PrivateRedis
from support.wait import wait_for

LONG = 60


@contextmanager
def stopped_redis(private_server: Any, directory: Path) -> Iterator[tuple[str, Any]]:
    del directory
    server = private_server(PrivateRedis)
    yield server.url, server.stop


@contextmanager
def unusable_file(private_server: Any, directory: Path) -> Iterator[tuple[str, Any]]:
    del private_server
    path = directory / "results.db"

    def replace() -> None:
        path.mkdir()

    yield f"sqlite:///{path}", replace


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("store", [stopped_redis, unusable_file])
def test_a_worker_whose_results_nobody_keeps_ends(
    store: Any, pool: str, private_server: Any, redis_url: str, tmp_path: Path, client: Any, start_worker: Any
) -> None:
    gate, book = tmp_path / "gate", tmp_path / "ledger"
    conf = {"worker_settle_timeout": 0.5}
    app = client(redis_url)
    with store(private_server, tmp_path) as (url, take_away):
        worker = start_worker("-P", pool, "-c", "2", broker=redis_url, backend=url, ledger=book, conf=conf)
        app.tasks["proj.hold"].delay(str(gate))
        app.tasks["proj.hold_late"].apply_async((str(gate), "late"), ignore_result=False)
        wait_for(lambda: len(_active(app)) == 2, LONG, lambda: worker.output[-2000:])
        take_away()
        gate.touch()
        worker.wait_line("Results cannot be stored", LONG)
        wait_for(lambda: ledger.size(book) == 2, LONG, lambda: worker.output[-2000:])
        wait_for(lambda: not _active(app), LONG, lambda: worker.output[-2000:])
        assert worker.stop(timeout=LONG) == 0
    assert worker.lines("waiting at most 0.5 s .settle_timeout. until 2 results"), worker.output
    assert worker.lines("2 results were not kept: .* 1 of their messages"), worker.output
    # The late one goes back, the early one is gone.
    assert queues.waiting(redis_url) == 1
    assert "Traceback" not in worker.output


def _active(app: Any) -> list[Any]:
    found = app.control.inspect(timeout=LONG, limit=1).active() or {}
    return [job for jobs in found.values() for job in jobs if job["time_start"]]
