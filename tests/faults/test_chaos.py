"""A short storm on each broker, and no storm at all: the books balance. `make chaos` does it for minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faults import plan, report
from faults.run import Outcome, Run
from faults.scene import FAILPOINTS, Scene

pytestmark = pytest.mark.chaos

SERVERS = {"redis": "redis_server", "amqp": "rabbit_server"}


@pytest.fixture(params=["redis", "amqp", "sqlite"])
def broker(request: pytest.FixtureRequest) -> str:
    # The session's servers are asked for only so that a missing one skips here and fails in CI.
    if request.param in SERVERS:
        request.getfixturevalue(SERVERS[request.param])
    return str(request.param)


def run(broker: str, directory: Path, seed: int, seconds: float, failpoints: dict[str, str], **options: Any) -> Outcome:
    events = plan.draw(broker, seed, seconds, longest=1, **options)
    with Scene(broker, directory, seed=seed, failpoints=failpoints) as scene:
        return Run(scene, events).go()


@pytest.mark.timeout(300)
def test_the_books_balance_after_a_storm(broker: str, tmp_path: Path) -> None:
    # A restart of RabbitMQ takes longer than the whole of it.
    outcome = run(broker, tmp_path, 11, 5, {plan.VICTIM: FAILPOINTS}, rate=15, restarts=broker != "amqp")
    assert outcome.good, report.table(outcome)
    assert outcome.faults
    assert sum(len(books.ok) for books in outcome.books.values()) > 30


@pytest.mark.timeout(300)
def test_without_faults_everything_runs_exactly_once(redis_server: object, tmp_path: Path) -> None:
    # `integration/test_exactly_once.py` does it with 20,000 tasks on each broker; here retries and countdowns are among
    # them, and no heading but one may have an entry.
    outcome = run("redis", tmp_path, 12, 2, {}, rate=60, faulty=False)
    assert outcome.good, report.table(outcome)
    assert not outcome.faults
    assert all(len(books.ok) == sum(map(len, books)) for books in outcome.books.values()), report.table(outcome)
    assert "the books balance" in report.table(outcome)
