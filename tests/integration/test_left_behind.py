"""What tasks leave behind in the worker's process does not keep it from ending."""

from __future__ import annotations

import pytest

POOLS = ["solo", "threads", "gevent", "eventlet", "asyncio", "prefork"]


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio"])
def test_threads_that_never_end_are_named_and_left(pool, redis_url, start_worker, client):
    worker = start_worker("-P", pool, "-c", "2", app="support.rough", broker=redis_url, backend=redis_url)
    client(redis_url, redis_url).send_task("rough.leaves_threads", (2,)).get(timeout=40)
    assert worker.stop() == 0, worker.output
    assert "ends without 2 threads that tasks have left: left behind 0, left behind 1." in worker.output


@pytest.mark.parametrize("pool", POOLS)
def test_streams_that_a_task_has_taken_are_not_missed(pool, redis_url, start_worker, client):
    worker = start_worker("-P", pool, "-c", "2", app="support.rough", broker=redis_url, backend=redis_url)
    app = client(redis_url, redis_url)
    app.send_task("rough.takes_stdout").get(timeout=40)
    assert app.tasks["proj.add"].delay(1, 2).get(timeout=40) == 3
    assert worker.stop() == 0, worker.output
