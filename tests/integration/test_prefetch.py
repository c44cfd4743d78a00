"""How much a worker reserves, where it is told to reserve little."""

from __future__ import annotations

import pytest

from support import ledger, queues
from support.held import LONG
from support.wait import wait_for


@pytest.fixture
def url(request):
    return request.getfixturevalue(f"{request.param}_url")


@pytest.mark.parametrize("url", ["redis", "amqp", "sqlite"], indirect=True)
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_nothing_is_reserved_while_no_slot_is_free(url, late, client, start_worker, ledger_path, tmp_path):
    app = client(url)
    gate = tmp_path / "gate"
    options = ("-P", "threads", "-c", "2", "--disable-prefetch", "--prefetch-multiplier", "4")
    worker = start_worker(*options, broker=url, ledger=ledger_path).wait_ready()
    hold = app.tasks["proj.hold_late" if late else "proj.hold_early"]
    for number in range(6):
        hold.delay(str(gate), number)
    wait_for(lambda: len(ledger.lines(ledger_path)) == 2, LONG, lambda: worker.output)
    (reserved,) = app.control.inspect(timeout=LONG, limit=1).reserved().values()
    assert reserved == []
    wait_for(lambda: queues.waiting(url) == 4, LONG, lambda: f"{queues.waiting(url)} wait")
    gate.touch()
    expected = [f"{what}:{number}" for what in ("start", "end") for number in range(6)]
    wait_for(lambda: not ledger.balance(expected, ledger_path).lost, LONG, lambda: worker.output)
    assert worker.stop() == 0
    assert ledger.balance(expected, ledger_path).balanced


def test_only_so_many_are_held_for_their_eta(redis_url, client, start_worker):
    app = client(redis_url)
    conf = {"worker_eta_task_limit": 2, "worker_eta_park_after": 1e6, "worker_prefetch_multiplier": 1}
    worker = start_worker("-P", "threads", "-c", "1", broker=redis_url, conf=conf)
    for number in range(5):
        app.tasks["proj.noop"].apply_async((number,), countdown=3600)

    def scheduled():
        ((_node, held),) = app.control.inspect(timeout=LONG, limit=1).scheduled().items()
        return len(held)

    # Two on top of the one that it may hold anyway.
    wait_for(lambda: scheduled() == 3 and queues.waiting(redis_url) == 2, LONG, lambda: worker.output)
    assert worker.stop() == 0
    assert queues.waiting(redis_url) == 5
