"""With `worker_deduplicate_successful_tasks` a message that comes again after a success does not run again."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from framework.message import mark_redelivered
from support import killbooks, ledger, queues
from support.held import LONG
from support.wait import wait_for

LEASE = 1.0
SAID = r"was redelivered after it had succeeded"


@pytest.mark.parametrize("deduplicate", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_worker_is_killed_between_result_and_acknowledgement(
    broker: str, deduplicate: bool, request: pytest.FixtureRequest, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    url = request.getfixturevalue(f"{broker}_url")
    conf = {"broker_transport_options": {"lease": LEASE}, "worker_deduplicate_successful_tasks": deduplicate}
    given: dict[str, Any] = {"broker": url, "backend": url, "ledger": ledger_path, "conf": conf}
    app = client(url, url, **conf)
    result = app.tasks["proj.sleep_late"].delay(0, "once")
    killed = start_worker(
        *("-c", "1", "-n", "killed@here"),
        app="support.killpoints",
        app_dir=Path(__file__).parent.parent,
        env={"TEST_KILL_AT": "result:1"},
        ready=False,
        **given,
    )
    assert killed.wait(LONG) == -signal.SIGKILL, killed.output
    assert result.get(timeout=LONG) == 0
    assert killbooks.unfinished(url) == 1
    worker = start_worker("-c", "1", "-n", "next@here", **given)
    wait_for(lambda: killbooks.unfinished(url) == 0, LONG, lambda: f"the acknowledgement; {worker.output[-3000:]}")
    assert worker.stop() == 0
    assert len(worker.lines(SAID)) == deduplicate
    times = 1 if deduplicate else 2
    assert ledger.read(ledger_path) == {"start:once": times, "end:once": times}
    assert result.get(timeout=LONG) == 0
    assert "Traceback" not in worker.output


def test_what_keeps_no_result_is_remembered_by_the_worker_that_ran_it(
    redis_url: str, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    conf = {"worker_deduplicate_successful_tasks": True}
    app = client(redis_url, **conf)
    app.tasks["proj.record_late"].apply_async(("entry",), queue="aside")
    with redis.Redis.from_url(redis_url) as server:
        message = server.rpop("aside")
    assert isinstance(message, bytes)
    again = mark_redelivered(message, 1)
    worker = start_worker("-c", "1", broker=redis_url, ledger=ledger_path, conf=conf)

    def runs(raw: bytes, times: int) -> None:
        queues.push_bytes(redis_url, raw)
        wait_for(
            lambda: ledger.read(ledger_path)["entry"] == times and not killbooks.unfinished(redis_url),
            LONG,
            lambda: f"run {times}; {worker.output[-3000:]}",
        )

    runs(message, 1)
    queues.push_bytes(redis_url, again)
    worker.wait_line(SAID, timeout=LONG)
    # The same id, and no redelivery: somebody wants it again. And a retry is another message.
    runs(message, 2)
    retried = json.loads(again)
    retried["headers"]["retries"] = 1
    runs(json.dumps(retried).encode(), 3)
    assert worker.stop() == 0
    assert len(worker.lines(SAID)) == 1
