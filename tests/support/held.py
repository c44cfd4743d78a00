"""A worker that is busy, for tests of what becomes of its tasks when the broker is away.

1. Every slot runs a task until it is let go, late acks but the fourth; ten more wait behind them.
2. `balances` compares the books: each ran once, and the broker knows that it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support import ledger, queues
from support.wait import wait_for

#: Far more than anything here takes.
LONG = 60.0


class Held:
    """The worker, its tasks, and a client."""

    def __init__(
        self,
        url: str,
        pool: str,
        start_worker: Callable[..., Any],
        client: Callable[..., Any],
        directory: Path,
        conf: Mapping[str, Any] | None = None,
        *,
        name: str = "held",
        slots: int = 4,
    ) -> None:
        self.url = url
        self.book = directory / "ledger"
        self.slots = 1 if pool == "solo" else slots
        self.late = min(self.slots, 3)
        conf = dict(conf or {})
        self.app = client(url, **conf)
        self.worker = start_worker(
            "-P", pool, "-c", str(self.slots), "-n", f"{name}@here", broker=url, ledger=self.book, conf=conf
        )
        self.held = [f"{name}{number}" for number in range(self.slots)]
        self._gates = [directory / f"gate-{entry}" for entry in self.held]
        for number, (gate, entry) in enumerate(zip(self._gates, self.held, strict=True)):
            task = "proj.hold_late" if number < self.late else "proj.hold_early"
            self.app.tasks[task].apply_async((str(gate), entry))
        self.wait_for([f"start:{entry}" for entry in self.held])
        self.behind = [f"{name}-behind{number}" for number in range(10)]
        self.app.send_many(self.app.tasks["proj.record_late"].si(entry) for entry in self.behind)

    @property
    def expected(self) -> list[Any]:
        """What the ledger must have in the end."""
        return [*(f"{what}:{entry}" for what in ("start", "end") for entry in self.held), *self.behind]

    def wait_for(self, entries: Sequence[Any]) -> None:
        """Wait until the ledger has all of `entries`."""
        wait_for(
            lambda: not ledger.balance(entries, self.book).lost,
            LONG,
            lambda: f"{ledger.balance(entries, self.book)}; the worker said: {self.worker.output[-3000:]}",
        )

    def let_go(self) -> None:
        """Have every task end."""
        for gate in self._gates:
            gate.touch()

    def is_back(self) -> None:
        """Wait until the worker consumes for the second time."""
        self.worker.wait_line("Connected to", timeout=LONG, count=2)

    def balances(self, *more: Any, url: str | None = None) -> None:
        """Everything ran once, `more` too, and nothing is left at the broker (`url`: where it is now)."""
        expected = [*self.expected, *more]
        self.wait_for(expected)
        assert self.worker.stop() == 0, self.worker.output
        books = ledger.balance(expected, self.book)
        assert books.balanced, f"{books}; {self.worker.output[-3000:]}"
        assert queues.waiting(url or self.url) == 0
        assert "Traceback" not in self.worker.output
