"""Three hundred messages that somebody made to break a worker: it outlives them, and each of them has one end."""

from __future__ import annotations

import re

import pytest
import redis

from support import hostile, ledger, queues
from support.wait import wait_for

COUNT = 300
DLQ = "celery.dlq"
#: What the log says of a task that has ended; a message that never became one is in the dead-letter queue.
ENDS = re.compile(r" succeeded in [\d.e-]+s: | raised (?:un)?expected: |\] ignored|\] retry: |\] Discarding ")
#: Some of the three hundred call a task when they end; it is none of the three hundred.
CALLED = "Task proj.noop["
CALLED_BY = re.compile(rb'"parent_id": ?"hostile-')


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_every_hostile_message_has_one_end(pool, redis_url, start_worker, client, ledger_path):
    conf = {"task_unknown_retries": 3, "task_unknown_delay": 0}
    worker = start_worker("-P", pool, "-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path, conf=conf)
    with redis.Redis.from_url(redis_url) as server:
        server.lpush("celery", *hostile.messages(COUNT))
    client(redis_url).tasks["proj.record"].delay("good")

    def ended() -> int:
        with redis.Redis.from_url(redis_url) as server:
            dead = sum(CALLED_BY.search(each) is None for each in server.lrange(DLQ, 0, -1))
        return dead + sum(len(ENDS.findall(line)) for line in worker.output.splitlines() if CALLED not in line)

    wait_for(
        lambda: ledger.read(ledger_path)["good"] == 1 or not worker.running,
        20,
        lambda: f"the good task; {ended()} of {COUNT} ended; the worker said: {worker.output[-3000:]}",
    )
    assert worker.stop() == 0
    assert "Defect" not in worker.output
    # What is held for an eta far away is given back by the stop.
    assert ended() + queues.waiting(redis_url) == COUNT + 1
