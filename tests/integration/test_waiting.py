"""Tasks that wait for their turn: the most important goes first, and what has expired meanwhile does not go at all."""

from __future__ import annotations

import time

import pytest

from framework.exceptions import TaskRevokedError
from framework.message import Outgoing, again, to_envelope
from support import ledger
from support.wait import wait_for

LONG = 40


@pytest.mark.parametrize(
    ("broker", "priorities"), [("redis", (0, 3, 6, 9)), ("sqlite", range(10)), ("amqp", range(9, -1, -1))]
)
def test_by_priority_and_then_by_age(broker, priorities, request, client, start_worker, ledger_path):
    """`priorities`: those that the broker tells apart, the most important one first."""
    url = request.getfixturevalue(f"{broker}_url")
    conf = {"task_queue_max_priority": 10} if broker == "amqp" else {}
    app = client(url, None, **conf)
    for number in range(5):
        # The least important ones first.
        for priority in sorted(priorities, key=list(priorities).index, reverse=True):
            app.tasks["proj.record"].apply_async((f"{priority}-{number}",), priority=priority)
    worker = start_worker(
        *("-P", "solo"), broker=url, ledger=ledger_path, conf={**conf, "worker_prefetch_multiplier": 1}
    )
    expected = [f"{priority}-{number}" for priority in priorities for number in range(5)]
    wait_for(lambda: ledger.size(ledger_path) == len(expected), LONG, lambda: worker.output[-3000:])
    assert ledger.lines(ledger_path) == expected


def test_what_is_sent_again_keeps_its_place_among_the_important():
    message = Outgoing(body=b"[]", headers={"task": "t", "id": "1"}, routing_key="q", priority=6)
    assert again(to_envelope(message, "tag"), "q").priority == 6


def test_a_retry_after_a_lost_process_keeps_its_priority(redis_url, client, start_worker, ledger_path):
    """It goes before what is less important, though it came later."""
    start_worker("-c", "1", app="support.retried", broker=redis_url, backend=redis_url, ledger=ledger_path)
    assert client(redis_url, redis_url).send_task("retried.dying", ("one",), priority=6).get(timeout=LONG) == 6


@pytest.mark.parametrize(
    ("broker", "pool"), [("redis", "prefork"), ("redis", "threads"), ("sqlite", "solo"), ("amqp", "prefork")]
)
def test_what_expires_in_the_worker_does_not_run(broker, pool, request, client, start_worker, ledger_path, tmp_path):
    """It was taken in before, while all slots were taken."""
    url = request.getfixturevalue(f"{broker}_url")
    backend = request.getfixturevalue("redis_url") if broker == "amqp" else url
    app = client(url, backend)
    conf = {"worker_prefetch_multiplier": 10}
    worker = start_worker("-P", pool, "-c", "1", broker=url, backend=backend, ledger=ledger_path, conf=conf)
    gate = tmp_path / "gate"
    try:
        held = app.tasks["proj.hold"].delay(str(gate))
        lapse = time.time() + 3
        stale = app.tasks["proj.record"].apply_async(("stale",), expires=3, ignore_result=False)
        fresh = app.tasks["proj.record"].apply_async(("fresh",), expires=3600, ignore_result=False)
        worker.wait_line(rf"\[{fresh.id}\] received", timeout=LONG)
        wait_for(lambda: time.time() > lapse + 0.1, LONG, "it to expire")
    finally:
        gate.touch()
    held.get(timeout=LONG)
    with pytest.raises(TaskRevokedError, match="expired"):
        stale.get(timeout=LONG)
    fresh.get(timeout=LONG)
    assert ledger.lines(ledger_path) == ["fresh"]
