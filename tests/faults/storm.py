"""A short storm on a broker, for the tests: `make chaos` does it for minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faults import plan, report
from faults.run import Outcome, Run
from faults.scene import FAILPOINTS, Scene


def run(
    broker: str,
    directory: Path,
    seed: int,
    seconds: float,
    failpoints: dict[str, str],
    server: Any = None,
    pool: str = "prefork",
    **options: Any,
) -> Outcome:
    """Return what comes of a run of `seconds` with short tasks; `options` are those of `plan.draw`."""
    events = plan.draw(broker, seed, seconds, longest=1, **options)
    with Scene(broker, directory, pool=pool, seed=seed, failpoints=failpoints, server=server) as scene:
        return Run(scene, events).go()


def check(broker: str, pool: str, directory: Path, seed: int, server: Any = None, *, restarts: bool = True) -> None:
    """Assert that the books balance after a storm of five seconds."""
    failpoints = {plan.VICTIM: FAILPOINTS}
    outcome = run(broker, directory, seed, 5, failpoints, server, pool, rate=15, haste=4, restarts=restarts)
    assert outcome.good, report.table(outcome)
    assert outcome.faults
    assert sum(len(books.ok) for books in outcome.books.values()) > 30, report.table(outcome)
