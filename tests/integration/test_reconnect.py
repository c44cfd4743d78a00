"""The broker goes away and comes back: the worker is still there, consumes again, and the books balance."""

from __future__ import annotations

import pytest

from support import ledger
from support.brokers import PrivateRabbit, PrivateRedis
from support.wait import wait_for


@pytest.fixture
def own_server(request, redis_server, rabbit_server):
    # The session's servers are asked for first only so that a missing one skips here and fails in CI.
    server = request.param()
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("own_server", "pool"),
    [
        (PrivateRedis, "prefork"),
        (PrivateRedis, "threads"),
        (PrivateRabbit, "prefork"),
        (PrivateRedis, "gevent"),
        (PrivateRabbit, "eventlet"),
    ],
    indirect=["own_server"],
    ids=["redis-prefork", "redis-threads", "amqp-prefork", "redis-gevent", "amqp-eventlet"],
)
def test_a_worker_outlives_a_restart_of_its_broker(own_server, pool, start_worker, client, ledger_path):
    broker = own_server.url
    worker = start_worker("-P", pool, "-c", "2", "-l", "info", broker=broker, ledger=ledger_path)
    app = client(broker)
    before, after = list(range(100)), list(range(100, 300))
    app.send_many(app.tasks["proj.record_late"].si(number) for number in before)
    wait_for(lambda: ledger.size(ledger_path) >= len(before), 20, "the tasks before the restart")
    own_server.restart()
    worker.wait_line(r"Connection to broker lost", timeout=10)
    again = client(broker)
    again.send_many(again.tasks["proj.record_late"].si(number) for number in after)
    wait_for(
        lambda: ledger.size(ledger_path) >= len(before) + len(after),
        30,
        lambda: f"{ledger.balance([*before, *after], ledger_path)}; the worker said: {worker.output[-2000:]}",
    )
    assert ledger.balance([*before, *after], ledger_path).balanced
    # Remote control is back too.
    wait_for(lambda: again.control.ping(timeout=0.5), 30, "an answer to ping")
    assert worker.stop() == 0
    assert "Traceback" not in worker.output
