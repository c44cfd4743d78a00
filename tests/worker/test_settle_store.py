"""Results while the store refuses some of them, or is away: none is lost with another, and every message is settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from framework import App
from framework._boot.loop import EventLoop
from framework.api import pool
from framework.api.pool import Outcome
from framework.api.result_store import Record, ResultStoreTraits
from framework.api.transport import Delivery
from framework.exceptions import ConnectionLost, FrameworkError
from framework.message import Head
from framework.wire.result_document import Documents
from framework.worker.intake.capacity import Prefetch
from framework.worker.settle.dead_letters import DeadLetters
from framework.worker.settle.outbox import Outbox
from framework.worker.settle.settle import Settle
from framework.worker.task_request import TaskRequest


class Attic:
    """A result store in memory: raises what `troubles` holds for a task id, once per entry."""

    traits = ResultStoreTraits()

    def __init__(self, troubles: dict[str, list[Exception]]) -> None:
        self.troubles = troubles
        self.kept: list[str] = []

    def store(self, records: Sequence[Record]) -> None:
        for record in records:
            if trouble := self.troubles.get(record.task_id):
                raise trouble.pop(0) if len(trouble) > 1 else trouble[0]
        self.kept += [record.task_id for record in records]


class Loan(Delivery):
    """A delivery that remembers what became of it."""

    def __init__(self) -> None:
        self.payload, self.queue, self.deliveries, self.end = b"", "q", 0, ""

    def ack(self) -> None:
        self.end = "ack"

    def reject(self, *, requeue: bool) -> None:
        self.end = "requeue"


def settled(troubles: dict[str, list[Exception]]) -> tuple[Settle, Attic, list[Loan], EventLoop]:
    """Return what is there after tasks `1`, `2` and `3` have ended with a result, and its loop."""
    loop, attic = EventLoop(), Attic(troubles)
    store: Any = attic
    outbox = Outbox(lambda: None)
    settle = Settle(loop, store, Documents(), DeadLetters(outbox, None), outbox, Prefetch(4, 1), lambda: None)
    app = App("t", broker="memory://settled")
    policy = app.task(name="t", acks_late=True)(lambda: None).policy
    loans = [Loan() for _ in range(3)]
    for seq, loan in enumerate(loans, 1):
        settle.running[seq] = TaskRequest(seq, loan, Head(), "t", str(seq), policy)
    settle.finished([Outcome(seq, pool.SUCCESS, 0.0, b"{}") for seq in (1, 2, 3)])
    settle.flush()
    return settle, attic, loans, loop


@pytest.mark.parametrize("trouble", [FrameworkError("too large"), TypeError("a defect of the store")])
def test_a_result_that_the_store_refuses_is_lost_alone(trouble):
    settle, attic, loans, loop = settled({"2": [trouble]})
    loop.close()
    assert attic.kept == ["1", "3"]
    assert [loan.end for loan in loans] == ["ack"] * 3
    assert settle.idle


def test_a_store_that_goes_away_while_it_refuses_loses_nothing():
    away = ConnectionLost("gone")
    settle, attic, loans, loop = settled({"1": [FrameworkError("no"), FrameworkError("no")], "2": [away]})
    assert attic.kept == []
    assert settle.unstored == 2
    assert [loan.end for loan in loans] == [""] * 3
    attic.troubles.clear()
    loop.call_later(20, loop.stop)  # a worker that never tries again
    settle._on_change = loop.stop
    loop.run()
    loop.close()
    assert attic.kept == ["2", "3"]
    assert [loan.end for loan in loans] == ["ack"] * 3
