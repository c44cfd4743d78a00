"""Time limits of a whole worker (acceptance H 102-116): each strikes its task, once, and the worker goes on."""

from __future__ import annotations

import pytest

from framework.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from support import poolfleet, queues
from support.poolfleet import POOLS
from support.wait import wait_for
from support.watch import Watch


@pytest.fixture(scope="module", params=POOLS)
def fleet(request, tmp_path_factory):
    options = ("-E", "--soft-time-limit=0.3", "--time-limit=0.6")
    with poolfleet.running(request, "redis", request.param, tmp_path_factory.mktemp("fleet"), *options) as fleet:
        yield fleet


@pytest.mark.acceptance(102, 103, 106, 109)
def test_soft_then_hard(fleet):
    before = fleet.pids()
    stuck = [fleet.send("bounded.stubborn", 3) for _ in range(fleet.slots)]
    for result in stuck:
        # What swallows even the hard limit is given up after half a second more.
        with pytest.raises(TimeLimitExceeded, match=r"0\.6"):
            result.get(timeout=30)
    fleet.worker.wait_line(r"Soft time limit \(0\.3s\) exceeded for bounded.stubborn")
    fleet.worker.wait_line(r"Hard time limit \(0\.6s\) exceeded for bounded.stubborn")
    assert fleet.app.tasks["proj.add"].delay(1, 2).get(timeout=30) == 3
    if fleet.pool == "prefork":
        wait_for(lambda: len(fleet.pids()) == fleet.slots and not before & fleet.pids(), 30, "other processes")


@pytest.mark.acceptance(104)
def test_soft_limit_can_be_caught(fleet):
    assert fleet.send(fleet.native("tidy"), 60).get(timeout=30) == "tidied up"
    with pytest.raises(SoftTimeLimitExceeded):
        fleet.send("bounded.wait", 60).get(timeout=30)


@pytest.mark.acceptance(115, 116)
def test_a_hard_limit_is_told_once_and_its_message_settled(fleet):
    watch = Watch(fleet.app)
    try:
        wait_for(lambda: fleet.tell("heartbeat") is None and watch.events, 30, "a heartbeat")
        cut = fleet.send("bounded.wait_late", 60, soft_time_limit=30)
        with pytest.raises(TimeLimitExceeded):
            cut.get(timeout=30)
        # Back in its queue after the first limit, given up after the second.
        again = fleet.send("bounded.wait_requeued", 60, soft_time_limit=30)
        fleet.started(again, 2)
        wait_for(lambda: again.state == "FAILURE", 30, "the end of its deliveries")
        after = fleet.app.tasks["proj.add"].delay(1, 2)
        wait_for(lambda: watch.of(after, "task-succeeded"), 30, "the event of what came after")
        (event,) = watch.of(cut, "task-failed")
        assert event["exception"] == "TimeLimitExceeded(0.6)"
        assert fleet.runs(cut) == 1
        assert fleet.runs(again) == 2
    finally:
        watch.close()
    assert queues.waiting(fleet.app.conf.settings.broker.url) == 0


@pytest.mark.acceptance(107)
@pytest.mark.parametrize(
    ("hard", "soft"),
    [("CELERYD_TASK_TIME_LIMIT", "CELERYD_TASK_SOFT_TIME_LIMIT"), ("task_time_limit", "task_soft_time_limit")],
)
def test_limits_in_code_by_either_name(request, tmp_path, hard, soft):
    conf = {hard: 0.6, soft: 0.3}
    with poolfleet.running(request, "redis", "prefork", tmp_path, **conf) as fleet:
        stubborn = fleet.send("bounded.stubborn", 60)
        assert fleet.send("bounded.tidy", 60).get(timeout=30) == "tidied up"
        with pytest.raises(TimeLimitExceeded):
            stubborn.get(timeout=30)
