"""With `worker_cancel_long_running_tasks_on_connection_loss` tasks with late ack end with it, and run again.

Others go on, as all do without it: see `test_adoption`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support import ledger, queues
from support.held import LONG
from support.proxy import Proxy
from support.wait import wait_for

CONF = {"worker_cancel_long_running_tasks_on_connection_loss": True}
SLOTS = 3
SAID = r"Terminating (\d+) running tasks with late ack"


@pytest.mark.parametrize(
    ("broker", "pool", "long"),
    [
        ("redis", "prefork", False),
        ("redis", "prefork", True),
        ("redis", "threads", False),
        ("redis", "threads", True),
        ("amqp", "prefork", True),
    ],
    ids=lambda value: {True: "away", False: "cut"}.get(value, value),
)
def test_a_task_with_late_ack_ends_with_the_connection_and_runs_again(
    broker: str,
    pool: str,
    long: bool,
    request: pytest.FixtureRequest,
    redis_url: str,
    start_worker: Any,
    client: Any,
    ledger_path: Path,
    tmp_path: Path,
) -> None:
    url = redis_url if broker == "redis" else request.getfixturevalue("amqp_url")
    app = client(url, redis_url, **CONF)
    gate = tmp_path / "gate"

    def worker_says(what: str) -> str:
        return f"{what}: {ledger.read(ledger_path)}; the worker said: {worker.output[-3000:]}"

    with Proxy(urlsplit(url).port or 0) as proxy:
        through = proxy.through(url)
        worker = start_worker(
            "-P", pool, "-c", str(SLOTS), broker=through, backend=redis_url, ledger=ledger_path, conf=CONF
        )
        late = [f"late{number}" for number in range(SLOTS - 1)]
        results = [app.tasks["proj.hold_late"].apply_async((str(gate), entry), ignore_result=False) for entry in late]
        app.tasks["proj.hold_early"].delay(str(gate), "early")
        wait_for(lambda: ledger.size(ledger_path) == SLOTS, LONG, lambda: worker_says("the first starts"))
        if long:
            proxy.refuse()
            worker.wait_line("Cannot connect to", timeout=LONG)
            proxy.accept()
        else:
            proxy.cut()
        assert worker.wait_line(SAID, timeout=LONG)[1] == str(SLOTS - 1)
        wait_for(
            lambda: all(ledger.read(ledger_path)[f"start:{entry}"] == 2 for entry in late),
            LONG,
            lambda: worker_says("the second starts"),
        )
        # What came of the first run would be stored by now.
        assert [result.state for result in results] == ["PENDING"] * len(late)
        gate.touch()
        assert [result.get(timeout=LONG) for result in results] == [None] * len(late)
        ended = [f"end:{entry}" for entry in (*late, "early")]
        wait_for(lambda: not ledger.balance(ended, ledger_path).lost, LONG, lambda: worker_says("the ends"))
        assert worker.stop() == 0, worker.output
    assert ledger.read(ledger_path) == {
        **{f"start:{entry}": 2 for entry in late},
        **dict.fromkeys(["start:early", *ended], 1),
    }
    assert queues.waiting(url) == 0
    assert queues.waiting(url, "celery.dlq") == 0
    assert len(worker.lines(SAID)) == 1
    assert "Traceback" not in worker.output
