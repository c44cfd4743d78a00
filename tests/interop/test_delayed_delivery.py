"""Celery's delayed delivery: what its client sends for later, through quorum queues, reaches our worker at its time."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import kombu
import pytest
from kombu.transport import native_delayed_delivery

from support import ledger
from support.brokers import PrivateRabbit
from support.wait import wait_for

CONF = {"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"}


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_what_celery_delays_in_the_broker_runs_at_its_time(
    rabbit_server: PrivateRabbit, amqp_url: str, kind: str, start_worker: Any, celery_client: Any, ledger_path: Any
) -> None:
    conf = {**CONF, "broker_native_delayed_delivery_queue_type": kind}
    worker = start_worker("-P", "solo", broker=amqp_url, ledger=ledger_path, conf=conf)
    with kombu.Connection(amqp_url) as connection:
        # Refused if ours were declared otherwise.
        native_delayed_delivery.declare_native_delayed_delivery_exchanges_and_queues(connection, kind)
    theirs = celery_client(amqp_url, **conf)
    sent = time.monotonic()
    # 3 is a one in each of the two lowest levels.
    theirs.send_task("proj.stamp", ("later",), countdown=3.5)
    with closing(rabbit_server.connect(amqp_url.rpartition("/")[2])) as connection:
        channel = connection.channel()

        def delayed() -> int:
            return sum(channel.queue_declare(f"celery_delayed_{level}", passive=True).message_count for level in (0, 1))

        wait_for(delayed, 20, "it to wait in the broker")
    assert ledger.size(ledger_path) == 0
    wait_for(lambda: ledger.size(ledger_path), 20, lambda: worker.output[-3000:])
    assert float(ledger.lines(ledger_path)[0].split()[2]) > sent + 3.5 - 0.1
    theirs.send_task("proj.stamp", ("now",))
    wait_for(lambda: ledger.size(ledger_path) == 2, 20, lambda: worker.output[-3000:])


@pytest.mark.parametrize("countdown", [0, 1])
def test_a_retry_of_it_finds_its_way_back(
    amqp_url: str, sqlite_url: str, start_worker: Any, celery_client: Any, countdown: int
) -> None:
    worker = start_worker("-P", "solo", "-l", "info", broker=amqp_url, backend=sqlite_url, conf=CONF)
    celery_client(amqp_url, **CONF).send_task("proj.retrying", (2, countdown), countdown=1.2)
    worker.wait_line(r"Task proj\.retrying\[.*\] succeeded", timeout=30)
