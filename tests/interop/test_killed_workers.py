"""What a killed Celery worker had goes to ours (acceptance S 229). What ours had: `integration/test_leases.py`."""

from __future__ import annotations

import pytest
import redis

from support import queues
from support.held import LONG
from support.wait import wait_for

#: Seconds after which our worker takes what Celery's did not acknowledge.
VISIBILITY = 1.0


@pytest.mark.acceptance(229)
def test_what_a_killed_celery_worker_left_is_put_back_and_marked(
    redis_url, start_worker, start_celery_worker, celery_client, tmp_path
):
    app = celery_client(redis_url, redis_url)
    gate = tmp_path / "gate"
    late = {"task_acks_late": True, "worker_prefetch_multiplier": 4}
    theirs = start_celery_worker(
        *("-P", "threads", "-c", "1", "-n", "theirs@here", "--without-gossip", "--without-mingle"),
        broker=redis_url,
        backend=redis_url,
        conf=late,
    )
    running = app.tasks["proj.hold"].delay(str(gate))
    prefetched = [app.tasks["proj.whoami"].delay() for _ in range(3)]
    with redis.Redis.from_url(redis_url) as server:
        wait_for(lambda: server.hlen("unacked") == 4, LONG, lambda: theirs.output[-2000:])
        theirs.close()
        taken = max(when for _, when in server.zrange("unacked_index", 0, -1, withscores=True))
        wait_for(lambda: server.time()[0] > taken + VISIBILITY, LONG, "the visibility timeout")
        behind = app.tasks["proj.whoami"].delay()
        conf = {"broker_transport_options": {"visibility_timeout": VISIBILITY}}
        ours = start_worker("-P", "threads", "-c", "1", broker=redis_url, backend=redis_url, conf=conf)
        ours.wait_line("Put back 4 messages that Celery workers left unacknowledged", timeout=LONG)
        gate.touch()
        running.get(timeout=LONG)
        told = [result.get(timeout=LONG) for result in (*prefetched, behind)]
        assert [each["redelivered"] for each in told] == [True, True, True, False]
        assert {each["hostname"] for each in told} == {ours.node}
        assert ours.stop() == 0
        assert server.hlen("unacked") == 0
    assert queues.waiting(redis_url) == 0
    assert "Traceback" not in ours.output
