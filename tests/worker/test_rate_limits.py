"""Rate limits by themselves: what is a rate, whose turn it is, and what a shared_rate_limit's answers do."""

from __future__ import annotations

import itertools
import time
from collections import deque
from types import SimpleNamespace

import pytest

from framework._boot.loop import EventLoop
from framework.client.task_policy import parse_rate
from framework.exceptions import ConfigError
from framework.worker.intake.rate_limits import RateLimits


@pytest.mark.parametrize(
    ("rate", "starts"),
    [
        (None, 0.0),
        ("", 0.0),
        (0, 0.0),
        ("0", 0.0),
        ("0/m", 0.0),
        (5, 5.0),
        (0.5, 0.5),
        ("10", 10.0),
        ("10/s", 10.0),
        ("0.5/s", 0.5),
        ("120/m", 2.0),
        ("3600/h", 1.0),
    ],
)
def test_rates(rate, starts):
    assert parse_rate(rate) == starts


@pytest.mark.acceptance(123)
@pytest.mark.parametrize("rate", ["abc", "200/x", "/s", "10/", "-1", "nan", "inf/s", -3, float("inf"), True, ["10/s"]])
def test_what_is_no_rate_is_told_what_is_allowed(rate):
    with pytest.raises(ConfigError, match=r'Invalid rate limit string: .*allowed.*"10/s", "200/m" or "1000/h"'):
        parse_rate(rate)


class Bench:
    """A loop, and a pool that takes what it is allowed to."""

    def __init__(self):
        self.loop = EventLoop()
        self.backlog = deque()
        self.started = []
        self.free = True
        self.enough = 0
        self._seq = 0
        self.rates = RateLimits(self.loop, self.backlog, self._tick)
        self.rates.disabled = False

    def task(self, name="t"):
        self._seq += 1
        item = SimpleNamespace(seq=self._seq, name=name)
        self.rates.accept(item)
        return item

    def _tick(self):
        self.loop.call_soon(self._feed)

    def _feed(self):
        taken = []
        while self.free and self.backlog:
            item = self.backlog.popleft()
            self.started.append((item.name, item.seq, time.monotonic()))
            taken.append(item.seq)
        self.rates.submitted(taken)
        if len(self.started) >= self.enough:
            self.loop.stop()

    def run(self, enough):
        self.enough = enough
        self._tick()
        self.loop.run()
        return self.started

    def gaps(self):
        times = [when for _name, _seq, when in self.started]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.loop.close()


def test_starts_are_spaced_and_in_order(bench):
    bench.rates.set("t", 50.0)
    items = [bench.task() for _ in range(6)]
    started = bench.run(6)
    assert [seq for _name, seq, _when in started] == [item.seq for item in items]
    # Ten milliseconds may be made up for where the loop was late.
    assert min(bench.gaps()) >= 0.02 - 0.011


def test_others_pass_by(bench):
    bench.rates.set("slow", 1 / 3600)
    for _ in range(5):
        bench.task("slow")
    for _ in range(5):
        bench.task("fast")
    assert [name for name, _seq, _when in bench.run(6)].count("fast") == 5
    assert len(bench.rates) == 4


def test_a_busy_pool_gets_one_and_the_rest_is_not_made_up_for(bench):
    bench.rates.set("t", 20.0)
    for _ in range(10):
        bench.task()
    bench.free = False
    bench.loop.call_later(0.3, bench.loop.stop)
    bench.enough = 99
    bench.loop.run()
    # Six would have been due by now.
    assert len(bench.backlog) == 1
    bench.free = True
    bench.run(3)
    assert min(bench.gaps()) >= 0.05 - 0.011


@pytest.mark.acceptance(125)
def test_a_change_takes_hold_of_what_waits(bench):
    bench.rates.set("t", 1 / 3600)
    for _ in range(4):
        bench.task()
    assert len(bench.run(1)) == 1
    bench.rates.set("t", 1000.0)
    assert len(bench.run(4)) == 4


@pytest.mark.acceptance(122)
def test_no_limit_lets_all_of_them_go(bench):
    bench.rates.set("t", 1 / 3600)
    for _ in range(4):
        bench.task()
    bench.run(1)
    bench.rates.set("t", 0.0)
    assert len(bench.run(4)) == 4
    assert not bench.rates.buckets


def test_a_limit_takes_hold_of_what_waits_for_the_pool(bench):
    for _ in range(3):
        bench.task()
    bench.task("other")
    bench.rates.set("t", 1 / 3600)
    assert sorted(name for name, _seq, _when in bench.run(2)) == ["other", "t"]
    assert len(bench.rates) == 2


def test_what_may_not_run_any_more_costs_no_start(bench):
    refused = {1, 2, 3}
    bench.rates.may_run = lambda item: item.seq not in refused
    bench.rates.set("t", 1 / 3600)
    for _ in range(4):
        bench.task()
    assert [seq for _name, seq, _when in bench.run(1)] == [4]


def test_fast_limits_are_reached(bench):
    bench.rates.set("t", 2000.0)
    for _ in range(400):
        bench.task()
    bench.run(400)
    times = [when for _name, _seq, when in bench.started]
    # What is due in ten milliseconds may go at once, and again where the loop was held up before.
    assert times[-1] - times[0] >= (400 - 1 - 2 * 20) / 2000 - 0.001


def test_clear_returns_what_waits(bench):
    bench.rates.set("t", 1 / 3600)
    items = [bench.task() for _ in range(3)]
    assert bench.rates.clear() == items[1:]
    assert not bench.rates.released
    assert len(bench.rates) == 0


class Turnstile:
    """Answers when it is told to."""

    def __init__(self):
        self.asked = []

    def ask(self, name, interval, count, deliver):
        self.asked.append((name, interval, count))
        self.deliver = deliver


class TestSharedLimits:
    @pytest.fixture
    def shared_rate_limit(self, bench):
        bench.rates.starts = Turnstile()
        return bench.rates.starts

    def test_without_a_turnstile_they_are_refused(self, bench):
        with pytest.raises(ConfigError, match=r"task t has a cluster-wide rate limit.*rate_limit_store under \[task\]"):
            bench.rates.set("t", 1.0, shared=True)

    def test_a_start_is_asked_for_and_waited_for(self, bench, shared_rate_limit):
        bench.rates.set("t", 5.0, shared=True)
        bench.task()
        bench.task()
        assert shared_rate_limit.asked == [("t@0.2", 0.2, 1)]
        began = time.monotonic()
        shared_rate_limit.deliver(0.05)
        bench.run(1)
        assert bench.started[0][2] - began >= 0.05
        assert len(shared_rate_limit.asked) == 2

    def test_many_starts_are_asked_for_at_once(self, bench, shared_rate_limit):
        bench.rates.set("t", 1000.0, shared=True)
        bench.task()
        bench.task()
        shared_rate_limit.deliver(0.0)
        bench.run(1)
        for _ in range(200):
            bench.task()
        assert shared_rate_limit.asked[-1] == ("t@0.001", 0.001, 1)
        shared_rate_limit.deliver(0.0)
        bench.run(2)
        assert shared_rate_limit.asked[-1] == ("t@0.001", 0.001, 100)

    def test_an_answer_that_comes_after_a_change_is_forgotten(self, bench, shared_rate_limit):
        bench.rates.set("t", 1.0, shared=True)
        bench.task()
        late = shared_rate_limit.deliver
        bench.rates.set("t", 10.0, shared=True)
        assert shared_rate_limit.asked[-1][0] == "t@0.1"
        late(0.0)
        assert not bench.backlog
        shared_rate_limit.deliver(0.0)
        assert len(bench.backlog) == 1

    def test_a_start_that_was_missed_is_over(self, bench, shared_rate_limit):
        bench.rates.set("t", 10.0, shared=True)
        bench.task()
        shared_rate_limit.deliver(-5.0)
        assert not bench.backlog
        assert len(shared_rate_limit.asked) == 2
