"""Tasks that run while the broker is away keep their messages: each runs once, and nothing is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import ledger, queues
from support.brokers import PrivateRabbit, PrivateRedis
from support.wait import wait_for


class Outages:
    """A broker that can be taken away and given back, its data kept."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.server: Any = None
        if kind == "sqlite":
            self.url = f"sqlite:///{directory}/broker.db"
            self._path = directory / "broker.db"
            self._lock: sqlite3.Connection | None = None
        else:
            self.server = PrivateRedis(persist=True) if kind == "redis" else PrivateRabbit()
            self.server.start()
            self.url = self.server.url

    @property
    def options(self) -> dict[str, Any]:
        # A file is given up when it has been locked for so long; the others when the connection breaks.
        return {"busy_timeout": 0.3} if self.kind == "sqlite" else {}

    def take_away(self) -> None:
        if self.kind == "sqlite":
            self._lock = sqlite3.connect(self._path, isolation_level=None, timeout=20)
            self._lock.execute("BEGIN IMMEDIATE")
        else:
            self.server.stop()

    def give_back(self) -> None:
        if self.kind == "sqlite":
            assert self._lock is not None
            self._lock.close()
        else:
            self.server.start()

    def close(self) -> None:
        if self.server is not None:
            self.server.close()


@pytest.fixture
def broker(request: pytest.FixtureRequest, redis_server: Any, rabbit_server: Any, tmp_path: Path) -> Iterator[Outages]:
    # The session's servers are asked for first only so that a missing one skips here and fails in CI.
    outages = Outages(request.param, tmp_path)
    yield outages
    outages.close()


CASES = pytest.mark.parametrize(
    ("broker", "pool"),
    [("redis", "prefork"), ("redis", "threads"), ("redis", "solo"), ("sqlite", "prefork"), ("amqp", "prefork")],
    indirect=["broker"],
)


class Held:
    """Four tasks that run until they are let go, and ten that wait behind them."""

    def __init__(self, broker: Outages, pool: str, start_worker: Any, client: Any, book: Path, directory: Path) -> None:
        self.book = book
        self.slots = 1 if pool == "solo" else 4
        self.gates = [directory / f"gate{number}" for number in range(self.slots)]
        self.conf = {"broker_transport_options": broker.options}
        self.app = client(broker.url, **self.conf)
        self.worker = start_worker("-P", pool, "-c", str(self.slots), broker=broker.url, ledger=book, conf=self.conf)
        self.held = [f"held{number}" for number in range(self.slots)]
        for number, (gate, entry) in enumerate(zip(self.gates, self.held, strict=True)):
            name = "proj.hold_late" if number < 3 else "proj.hold_early"
            self.app.tasks[name].apply_async((str(gate), entry))
        self.wait_for([f"start:{entry}" for entry in self.held])
        self.behind = list(range(10))
        self.app.send_many(self.app.tasks["proj.record_late"].si(number) for number in self.behind)

    def wait_for(self, entries: list[Any]) -> None:
        wait_for(
            lambda: not ledger.balance(entries, self.book).lost,
            40,
            lambda: f"{ledger.balance(entries, self.book)}; the worker said: {self.worker.output[-3000:]}",
        )

    def let_go(self) -> None:
        for gate in self.gates:
            gate.touch()

    def is_back(self) -> None:
        self.worker.wait_line("Connected to", timeout=40, count=2)

    def balances(self, url: str, *more: Any) -> None:
        """Everything ran once, and the broker knows that it did."""
        expected = [f"{what}:{entry}" for what in ("start", "end") for entry in self.held]
        expected += [*self.behind, *more]
        self.wait_for(expected)
        assert self.worker.stop() == 0, self.worker.output
        books = ledger.balance(expected, self.book)
        assert books.balanced, f"{books}; {self.worker.output[-3000:]}"
        assert queues.waiting(url) == 0
        assert "Traceback" not in self.worker.output


@CASES
def test_what_runs_across_an_outage_runs_once(
    broker: Outages, pool: str, start_worker: Any, client: Any, ledger_path: Path, tmp_path: Path
) -> None:
    held = Held(broker, pool, start_worker, client, ledger_path, tmp_path)
    broker.take_away()
    held.worker.wait_line("Connection to broker lost", timeout=40)
    broker.give_back()
    held.is_back()
    # Control is back, and knows them; nothing else has begun beside them.
    wait_for(lambda: held.app.control.ping(timeout=1), 40, "an answer to ping")
    active = held.app.control.inspect(timeout=20, limit=1).active()
    assert [len(tasks) for tasks in active.values()] == [held.slots]
    if broker.kind != "amqp":
        late = min(held.slots, 3)
        held.worker.wait_line(f"Still on loan: the messages of {late} tasks")
    held.let_go()
    held.app.tasks["proj.record_late"].delay("new")
    held.balances(broker.url, "new")


@CASES
def test_what_ends_during_an_outage_is_acknowledged_after_it(
    broker: Outages, pool: str, start_worker: Any, client: Any, ledger_path: Path, tmp_path: Path
) -> None:
    held = Held(broker, pool, start_worker, client, ledger_path, tmp_path)
    broker.take_away()
    held.worker.wait_line("Connection to broker lost", timeout=40)
    held.let_go()
    held.wait_for([f"end:{entry}" for entry in held.held])
    broker.give_back()
    held.is_back()
    held.app.tasks["proj.record_late"].delay("new")
    held.balances(broker.url, "new")
