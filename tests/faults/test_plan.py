"""A seed is a plan: the same one every time, and another one for another seed."""

from __future__ import annotations

import pytest

from faults import plan
from faults.mishaps import Mishaps


@pytest.mark.parametrize("broker", plan.WEIGHTS)
def test_a_seed_gives_one_plan(broker):
    first, again, other = (plan.draw(broker, seed, 60) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [event.at for event in first] == sorted(event.at for event in first)


def test_faults_do_not_change_the_work():
    calm = plan.draw("redis", 5, 60, faulty=False)
    stormy = plan.draw("redis", 5, 60)
    assert {event.what for event in calm} == {"send"}
    assert calm == [event for event in stormy if event.what == "send"]


@pytest.mark.parametrize("broker", plan.WEIGHTS)
def test_ten_minutes_have_every_fault_and_every_kind_of_work(broker):
    events = plan.draw(broker, 1, 600)
    found = plan.describe(events)
    wanted = set(plan.WEIGHTS[broker]) | ({"restart"} if broker in plan.RESTARTS else set())
    assert set(found["faults"]) == wanted
    assert found["tasks"] == pytest.approx(600 * 20, rel=0.2)
    tasks = [task for event in events for task, _ in event.tasks]
    assert len({task.entry for task in tasks}) == len(tasks)
    assert {(task.late, task.fails > 0, task.keeps_result) for task in tasks} == {
        (late, fails, keeps) for late in (True, False) for fails in (True, False) for keeps in (True, False)
    }
    assert any(countdown for event in events for _, countdown in event.tasks)


def test_every_fault_can_be_done():
    names = {what for weights in plan.WEIGHTS.values() for what in weights} | {"restart"}
    assert [name for name in names if not hasattr(Mishaps, f"_{name.replace('-', '_')}")] == []


def test_nobody_kills_the_steady_worker():
    events = [event for seed in range(5) for event in plan.draw("redis", seed, 300)]
    assert {event.worker for event in events if event.what == "kill"} == {plan.VICTIM}
