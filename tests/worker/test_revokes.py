"""Revoked ids and stamps in memory, and what they cost."""

from __future__ import annotations

import tracemalloc
import uuid

import pytest

from framework.worker.dispatch import revoked as module
from framework.worker.dispatch.revoked import Revokes, matching_stamps


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_knows_what_it_was_told():
    revokes = Revokes()
    assert not revokes
    revokes.add(["a", "b"])
    assert revokes
    assert "a" in revokes
    assert "c" not in revokes
    assert revokes.list() == ["a", "b"]


def test_drops_the_oldest():
    revokes = Revokes(maximum=2)
    revokes.add(["a", "b", "c"])
    assert revokes.list() == ["b", "c"]


def test_a_repeated_id_is_young_again():
    revokes = Revokes(maximum=2)
    revokes.add(["a", "b", "a", "c"])
    assert revokes.list() == ["a", "c"]


def test_never_holds_more_than_its_maximum():
    revokes = Revokes(maximum=1000)
    for number in range(5000):
        revokes.add([str(number)])
        assert len(revokes) <= 1000
    # They go in groups, so that each add need not look for the oldest.
    assert len(revokes) >= 980
    assert "4999" in revokes
    assert "3000" not in revokes


def test_ids_expire_by_the_wall_clock(clock):
    revokes = Revokes(expires=100.0)
    revokes.add(["a"])
    clock.now += 60
    revokes.add(["b"])
    assert revokes.list() == ["a", "b"]
    clock.now += 50
    assert "a" not in revokes
    assert revokes.list() == ["b"]
    revokes.add(["c"])
    assert len(revokes) == 2


def test_what_others_tell_does_not_make_known_ids_young_again(clock):
    revokes = Revokes(expires=100.0)
    revokes.add(["a"])
    clock.now += 60
    revokes.merge(["a", "b"])
    clock.now += 50
    assert revokes.list() == ["b"]


def test_forgets_what_is_removed():
    revokes = Revokes()
    revokes.add(["a", "b"])
    assert revokes.remove(["b", "c"]) == ["b"]
    assert revokes.list() == ["a"]


def test_a_clock_that_was_set_back_does_no_harm(clock):
    revokes = Revokes(expires=100.0)
    revokes.add(["a"])
    clock.now -= 500
    revokes.add(["b"])
    assert revokes.list() == ["a", "b"]


def test_a_million_ids_would_need_less_than_150_megabytes():
    ids = [str(uuid.uuid4()) for _ in range(100_000)]
    revokes = Revokes(maximum=100_000)
    tracemalloc.start()
    try:
        for start in range(0, len(ids), 100):
            revokes.add(str(uuid.UUID(one)) for one in ids[start : start + 100])
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(revokes) == len(ids)
    assert held <= 15_000_000
    assert peak <= 2 * held
    # Ids of one second share the object of their time.
    assert len({id(since) for since in revokes._since.values()}) < 1000


class TestStamps:
    def test_one_value_is_enough(self):
        revokes = Revokes()
        revokes.add_stamps({"mon": ["abc", "def"], "cost": 7})
        assert revokes
        assert revokes.revoked_stamps({"stamps": {"mon": "abc"}}) == {"mon": ["abc"]}
        assert revokes.revoked_stamps({"stamps": {"mon": ["x", "def"], "cost": [7]}}) == {"mon": ["def"], "cost": ["7"]}
        assert revokes.revoked_stamps({"stamps": {"mon": "x", "other": "abc"}}) == {}

    @pytest.mark.parametrize("headers", [{}, {"stamps": None}, {"stamps": "mon"}, {"stamps": ["mon"]}])
    def test_a_task_without_stamps_is_not_meant(self, headers):
        assert matching_stamps(headers, {"mon": {"abc"}}) == {}
