"""No short task waits behind a long one while another worker is free, on each broker, with early and with late ack."""

from __future__ import annotations

import pytest

from support import ledger, queues
from support.held import LONG
from support.wait import wait_for

SHORT = 10


@pytest.fixture
def url(request):
    return request.getfixturevalue(f"{request.param}_url")


@pytest.mark.parametrize(
    ("url", "pool"), [("redis", "prefork"), ("amqp", "prefork"), ("sqlite", "threads")], indirect=["url"]
)
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_short_tasks_go_to_the_worker_that_is_free(url, pool, late, client, start_worker, ledger_path, tmp_path):
    app = client(url)
    gate = tmp_path / "gate"
    workers = [
        start_worker("-P", pool, "-c", "1", "-n", f"{name}@here", broker=url, ledger=ledger_path) for name in "ab"
    ]
    for worker in workers:
        worker.wait_ready()
    app.tasks["proj.hold_late" if late else "proj.hold_early"].delay(str(gate), "long")
    short = app.tasks["proj.record_late" if late else "proj.record"]
    for number in range(SHORT):
        short.delay(f"short{number}")
    expected = ["start:long", *(f"short{number}" for number in range(SHORT))]
    wait_for(
        lambda: not ledger.balance(expected, ledger_path).lost,
        LONG,
        lambda: f"{ledger.lines(ledger_path)}; {queues.waiting(url)} wait in the queue",
    )
    gate.touch()
    for worker in workers:
        assert worker.stop() == 0
    assert ledger.balance([*expected, "end:long"], ledger_path).balanced
