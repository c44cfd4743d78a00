"""Transports and workers that are broken on purpose: the books of a real run do not balance, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import accounts, plan, report
from faults.run import Outcome, Run
from faults.scene import Scene
from support import ledger

pytestmark = pytest.mark.chaos


def run(directory: Path, breakage: str) -> Outcome:
    """A run without faults on workers whose transport is broken as `breakage` says."""
    events = plan.draw("sqlite", 21, 1.5, rate=60, longest=0.5, faulty=False)
    with Scene("sqlite", directory, seed=21, failpoints=dict.fromkeys((plan.STEADY, plan.VICTIM), breakage)) as scene:
        return Run(scene, events).go()


def headings(outcome: Outcome) -> set[str]:
    return {heading for books in outcome.books.values() for heading in accounts.HEADINGS if getattr(books, heading)}


@pytest.mark.timeout(300)
def test_messages_that_vanish_are_lost(tmp_path: Path) -> None:
    outcome = run(tmp_path, "fetch.after=drop:0.2")
    assert not outcome.good
    assert headings(outcome) == {"ok", "lost"}
    assert "THE BOOKS DO NOT BALANCE" in report.table(outcome)


@pytest.mark.timeout(300)
def test_messages_that_come_twice_are_duplicated(tmp_path: Path) -> None:
    outcome = run(tmp_path, "fetch.after=double:0.2")
    assert not outcome.good
    # An early-ack task of which one copy retries may have attempts that nobody can tell from strangers.
    assert "duplicated" in headings(outcome)
    assert not headings(outcome) & {"lost", "recovered", "excused"}


@pytest.mark.timeout(300)
def test_a_worker_that_ends_is_noticed(tmp_path: Path) -> None:
    events = plan.draw("sqlite", 22, 1.5, rate=20, longest=0.5, faulty=False)
    with Scene("sqlite", tmp_path, seed=22, failpoints={plan.STEADY: "finished.after=kill:0.3"}) as scene:
        outcome = Run(scene, events, patience=0.1).go()
    assert not outcome.good
    assert f"{plan.STEADY} ended with -9" in outcome.complaints


def test_what_nobody_sent_is_unexpected(tmp_path: Path) -> None:
    ledger.append(tmp_path / "ledger", "start stranger 0 1.0 w:1 8")
    books = accounts.keep([], accounts.read(ledger.lines(tmp_path / "ledger")))
    assert books.unexpected == ["stranger"]
    assert not books.balanced
