"""A short storm on Redis, and none at all: the books balance."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import report, storm

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(300)
def test_the_books_balance_after_a_storm(redis_server: object, tmp_path: Path) -> None:
    # The session's server is asked for only so that a missing one skips here and fails in CI: this one is restarted.
    storm.check("redis", "prefork", tmp_path, 37)


@pytest.mark.timeout(300)
def test_without_faults_everything_runs_exactly_once(redis_server: object, tmp_path: Path) -> None:
    # `integration/test_exactly_once.py` does it with 20,000 tasks on each broker; here retries and countdowns are among
    # them, and no heading but one may have an entry.
    outcome = storm.run("redis", tmp_path, 12, 2, {}, redis_server, rate=60, faulty=False)
    assert outcome.good, report.table(outcome)
    assert not outcome.faults
    assert all(len(books.ok) == sum(map(len, books)) for books in outcome.books.values()), report.table(outcome)
    assert "the books balance" in report.table(outcome)
