"""Tasks that run while the broker is away keep their messages: each runs once, and nothing is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.brokers import PrivateRabbit, PrivateRedis
from support.held import Held
from support.wait import wait_for


class Outages:
    """A broker that can be taken away and given back, its data kept."""

    options: dict[str, Any]

    def __init__(self, kind: str, private_server: Callable[[Any], Any], directory: Path) -> None:
        self.kind = kind
        self.options = {}
        if kind == "sqlite":
            # A file is given up when it has been locked for so long; it is written to each third of the lease.
            self.options = {"busy_timeout": 0.3, "lease": 1.5}
            self.url = f"sqlite:///{directory}/broker.db"
            self._path = directory / "broker.db"
            self._lock: sqlite3.Connection | None = None
        else:
            self._server = private_server(PrivateRabbit if kind == "amqp" else lambda: PrivateRedis(persist=True))
            self.url = self._server.url

    def take_away(self) -> None:
        if self.kind == "sqlite":
            self._lock = sqlite3.connect(self._path, isolation_level=None, timeout=20)
            self._lock.execute("BEGIN IMMEDIATE")
        else:
            self._server.stop()

    def give_back(self) -> None:
        if self.kind == "sqlite":
            self.close()
        else:
            self._server.start()

    def close(self) -> None:
        if self.kind == "sqlite" and self._lock is not None:
            self._lock.close()


@pytest.fixture
def broker(request: pytest.FixtureRequest, private_server: Any, tmp_path: Path) -> Iterator[Outages]:
    outages = Outages(request.param, private_server, tmp_path)
    yield outages
    outages.close()


CASES = pytest.mark.parametrize(
    ("broker", "pool"),
    [("redis", "prefork"), ("redis", "solo"), ("sqlite", "threads"), ("amqp", "prefork")],
    indirect=["broker"],
)


@CASES
def test_what_runs_across_an_outage_runs_once(
    broker: Outages, pool: str, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    held = Held(broker.url, pool, start_worker, client, tmp_path, {"broker_transport_options": broker.options})
    broker.take_away()
    held.worker.wait_line("Connection to broker lost", timeout=40)
    broker.give_back()
    held.is_back()
    # Control is back, and knows them; nothing else has begun beside them.
    wait_for(lambda: held.app.control.ping(timeout=1), 40, "an answer to ping")
    active = held.app.control.inspect(timeout=20, limit=1).active()
    assert [len(tasks) for tasks in active.values()] == [held.slots]
    if broker.kind != "amqp":
        held.worker.wait_line(f"Kept the messages of {held.late} tasks")
    held.let_go()
    held.app.tasks["proj.record_late"].delay("new")
    held.balances("new")


@CASES
def test_what_ends_during_an_outage_is_acknowledged_after_it(
    broker: Outages, pool: str, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    held = Held(broker.url, pool, start_worker, client, tmp_path, {"broker_transport_options": broker.options})
    broker.take_away()
    held.worker.wait_line("Connection to broker lost", timeout=40)
    held.let_go()
    held.wait_for([f"end:{entry}" for entry in held.held])
    broker.give_back()
    held.is_back()
    held.app.tasks["proj.record_late"].delay("new")
    held.balances("new")
