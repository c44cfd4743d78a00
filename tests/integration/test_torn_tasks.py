"""A cold stop ends running tasks: each has one line, an end that is stored, and an event that agrees with it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from framework.exceptions import TaskRevokedError
from support import queues
from support.listening import listening
from support.wait import wait_for

LONG = 60


# In threads `sleeptask` cannot be interrupted: it ends with the process.
@pytest.mark.parametrize(
    ("pool", "task"),
    [
        ("prefork", "hold"),
        ("threads", "hold"),
        ("threads", "sleeptask"),
        ("gevent", "hold"),
        ("eventlet", "hold"),
        ("asyncio", "ahold"),
        ("solo", "sleeptask"),
    ],
)
def test_an_early_task_that_a_cold_stop_ends_is_revoked(
    pool: str, task: str, redis_url: str, client: Any, start_worker: Any, ledger_path: Path
) -> None:
    app = client(redis_url, redis_url)
    argument = 300 if task == "sleeptask" else str(ledger_path.with_name("gate"))
    with listening(app) as heard:
        worker = start_worker("-E", "-P", pool, "-c", "2", broker=redis_url, backend=redis_url, ledger=ledger_path)
        early = app.tasks[f"proj.{task}"].delay(argument)
        wait_for(lambda: heard.of("task-started"), LONG, lambda: worker.output[-2000:])
        assert worker.stop(signal.SIGQUIT, timeout=LONG) == 0
        wait_for(lambda: heard.of("worker-offline"), LONG)
        assert [(event["uuid"], event["terminated"]) for event in heard.of("task-revoked")] == [(early.id, True)]
    assert early.state == "REVOKED"
    assert isinstance(early.get(timeout=LONG, propagate=False), TaskRevokedError)
    assert len(worker.lines(rf"WARNING.*proj.{task}\[{early.id}\].* REVOKED")) == 1, worker.output
    assert queues.waiting(redis_url) == 0


@pytest.mark.parametrize(("pool", "task"), [("prefork", "hold_late"), ("threads", "sleep_late")])
def test_a_late_task_that_a_cold_stop_ends_goes_back(
    pool: str, task: str, redis_url: str, client: Any, start_worker: Any, ledger_path: Path
) -> None:
    app = client(redis_url, redis_url)
    arguments = (300,) if task == "sleep_late" else (str(ledger_path.with_name("gate")), "late")
    with listening(app) as heard:
        worker = start_worker("-E", "-P", pool, "-c", "2", broker=redis_url, backend=redis_url, ledger=ledger_path)
        late = app.tasks[f"proj.{task}"].apply_async(arguments)
        wait_for(lambda: heard.of("task-started"), LONG, lambda: worker.output[-2000:])
        assert worker.stop(signal.SIGQUIT, timeout=LONG) == 0
        wait_for(lambda: heard.of("worker-offline"), LONG)
        assert [event["uuid"] for event in heard.of("task-cancelled")] == [late.id]
        assert not heard.of("task-revoked")
    assert late.state == "PENDING"
    assert len(worker.lines(rf"WARNING.*proj.{task}\[{late.id}\].* goes back to celery")) == 1, worker.output
    assert queues.waiting(redis_url) == 1
