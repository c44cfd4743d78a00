"""What follows each end of a task: every cell of the table, in the ledger, the results and the dead-letter queue."""

from __future__ import annotations

import json
import signal
from collections import Counter

import pytest
import redis

from support import ended, ledger, queues, workers
from support.ended import ACTIONS, DLQ
from support.listening import listening
from support.wait import wait_for

#: Ends that a pool in one process can bring about, with the reason in a dead letter.
INSIDE = {"failure": "failed", "soft_timeout": "timed-out", "hard_timeout": "timed-out"}
ENDS = {**INSIDE, "worker_lost": "worker-lost"}
#: Starts of a task, by what follows its end: one more by a retry, or by a delivery, and then no more.
STARTS = {"ack": 1, "requeue": 2, "retry": 2, "dead-letter": 1}


@pytest.mark.parametrize(
    ("broker", "pool", "ends"),
    [
        ("redis", "prefork", ENDS),
        ("amqp", "prefork", ENDS),
        ("sqlite", "threads", INSIDE),
        ("redis", "gevent", INSIDE),
        ("redis", "asyncio", INSIDE),
    ],
)
def test_every_cell(broker, pool, ends, request, client, start_worker, ledger_path):
    url = request.getfixturevalue(f"{broker}_url")
    backend = url if broker != "amqp" else request.getfixturevalue("redis_url")
    worker = start_worker(
        *("-P", pool, "-c", "4"), app="support.ended", broker=url, backend=backend, ledger=ledger_path
    )
    app = client(url, backend)
    late = [f"{end}.{action}" for end in ends for action in ACTIONS]
    early = [f"early.{end}.{action}" for end in ends for action in ACTIONS if action != "requeue"]
    results = {name: app.send_task(f"ended.{name}") for name in (*late, *early)}
    starts = Counter({name: STARTS[name.rpartition(".")[2]] for name in results})
    buried = Counter(
        f"{name} {'max-deliveries' if name.endswith('requeue') else ends[name.split('.')[-2]]}"
        for name in results
        if name.endswith(("requeue", "dead-letter"))
    )
    wait_for(
        lambda: ledger.read(ledger_path) == starts and queues.waiting(url, DLQ) == buried.total(),
        90,
        lambda: f"{starts - ledger.read(ledger_path)} {buried - ended.letters(url)} {worker.output[-3000:]}",
    )
    assert worker.stop() == 0
    # And nothing more than that.
    assert (ledger.read(ledger_path), ended.letters(url)) == (starts, buried)
    assert {name: results[name].state for name in results} == dict.fromkeys(results, "FAILURE")


def test_a_cold_stop(redis_url, client, start_worker, ledger_path):
    worker = start_worker("-c", "7", app="support.ended", broker=redis_url, ledger=ledger_path)
    app = client(redis_url)
    names = [f"shutdown.{action}" for action in ACTIONS]
    names += [f"early.shutdown.{action}" for action in ACTIONS if action != "requeue"]
    for name in names:
        app.send_task(f"ended.{name}")
    wait_for(lambda: ledger.read(ledger_path) == Counter(names), 60, lambda: worker.output[-3000:])
    worker.stop(signal.SIGQUIT)
    with redis.Redis.from_url(redis_url, decode_responses=True) as server:
        waiting = [json.loads(raw)["headers"] for raw in server.lrange("celery", 0, -1)]
    assert {each["task"].removeprefix("ended."): each["retries"] for each in waiting} == {
        "shutdown.requeue": 0,
        "shutdown.retry": 1,
        "early.shutdown.retry": 1,
    }
    assert ended.letters(redis_url) == Counter(["shutdown.dead-letter shutdown", "early.shutdown.dead-letter shutdown"])


def test_a_retry_is_told_as_one(redis_url, client, start_worker, ledger_path):
    """A task whose process dies: its events and its state are those of a retry, then those of a failure."""
    app = client(redis_url, redis_url)
    start_worker("-E", "-c", "1", app="support.ended", broker=redis_url, backend=redis_url, ledger=ledger_path)
    with listening(app) as heard:
        app.send_task("ended.worker_lost.retry")
        wait_for(lambda: heard.of("task-failed"), 30, lambda: str(heard.types()))
    types = [event["type"] for event in heard.events if event["type"].startswith("task-")]
    assert Counter(types) == Counter({"task-received": 2, "task-started": 2, "task-retried": 1, "task-failed": 1})
    assert types.index("task-retried") < types.index("task-failed")


def test_a_table_that_is_wrong_ends_the_start(tmp_path):
    (tmp_path / "wrong.py").write_text(
        "from framework import App\napp = App('wrong', broker='memory://')\n"
        "@app.task(ends={'failure': 'requeue'})\ndef early(): pass\n"
    )
    done = workers.run_command("-A", "wrong", "worker", "-P", "solo", app_dir=tmp_path)
    assert done.returncode == 78
    assert "the ends of wrong.early: only a message that is acknowledged late can be requeued" in done.stderr
