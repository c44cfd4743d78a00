"""The worker's small parts: prefetch, schedule, pidfile, back-off, clock, times."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from framework import exitcodes
from framework._boot.loop import EventLoop
from framework.api.backoff import Backoff
from framework.exceptions import MessageUndecodable
from framework.wire.clock import Clock
from framework.worker.dispatch.eta import timestamp
from framework.worker.intake.capacity import UNLIMITED, Prefetch
from framework.worker.process.pidfile import Pidfile, PidfileTaken
from framework.worker.schedule import Schedule


class TestPrefetch:
    def test_a_number_fixes_it_as_in_celery(self):
        assert Prefetch(4, 2).limit == 8

    def test_zero_is_unlimited(self):
        assert Prefetch(0, 2).limit == UNLIMITED

    def test_auto_starts_with_one_message_a_slot(self):
        assert Prefetch("auto", 2).limit == 2

    def test_auto_grows_with_short_tasks_and_falls_back_at_the_first_long_one(self):
        prefetch = Prefetch("auto", 2)
        for _ in range(100):
            prefetch.learn(0.0001, 10)
        assert prefetch.limit > 100
        prefetch.learn(5.0, 1)
        assert prefetch.limit == 2

    def test_what_is_held_for_later_comes_on_top(self):
        prefetch = Prefetch(4, 2)
        prefetch.hold(2, 1)
        assert prefetch.limit == 11

    def test_only_so_much_of_it_as_is_allowed(self):
        prefetch = Prefetch(4, 2, 2)
        prefetch.hold(5, 1)
        assert prefetch.limit == 11


class TestSchedule:
    def test_items_come_out_in_the_order_of_their_times(self):
        loop, out = EventLoop(), []

        def release(items):
            out.extend(items)
            if len(out) == 3:
                loop.stop()

        schedule = Schedule(loop, release)
        now = time.time()
        schedule.hold(now + 0.02, "late")
        schedule.hold(now + 0.01, "early")
        schedule.hold(now - 5, "past")
        loop.run()
        loop.close()
        assert out == ["past", "early", "late"]

    def test_clear_gives_everything_back(self):
        loop = EventLoop()
        schedule = Schedule(loop, lambda items: pytest.fail("released"))
        schedule.hold(time.time() + 60, "a")
        assert schedule.clear() == ["a"]
        assert len(schedule) == 0
        loop.close()


@pytest.mark.acceptance(51)
class TestPidfile:
    def test_is_written_and_removed(self, tmp_path):
        pidfile = Pidfile(tmp_path / "w.pid")
        pidfile.take()
        assert (tmp_path / "w.pid").read_text() == f"{os.getpid()}\n"
        pidfile.release()
        assert not (tmp_path / "w.pid").exists()

    def test_a_stale_one_is_taken_over(self, tmp_path, caplog):
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        (tmp_path / "w.pid").write_text(f"{dead.pid}\n")
        Pidfile(tmp_path / "w.pid").take()
        assert (tmp_path / "w.pid").read_text() == f"{os.getpid()}\n"
        assert "Stale pidfile exists - Removing it." in caplog.text

    def test_a_live_one_is_refused(self, tmp_path):
        (tmp_path / "w.pid").write_text(f"{os.getppid()}\n")
        with pytest.raises(PidfileTaken, match=f"process {os.getppid()}, which is running") as caught:
            Pidfile(tmp_path / "w.pid").take()
        assert caught.value.exit_code == exitcodes.CANT_CREATE

    def test_a_folder_that_does_not_exist_is_named(self, tmp_path):
        with pytest.raises(PidfileTaken, match="cannot be written: No such file"):
            Pidfile(tmp_path / "none" / "w.pid").take()

    def test_another_workers_file_is_left_alone(self, tmp_path):
        pidfile = Pidfile(tmp_path / "w.pid")
        pidfile.take()
        (tmp_path / "w.pid").write_text("1\n")
        pidfile.release()
        assert (tmp_path / "w.pid").exists()


def test_backoff_grows_up_to_its_maximum_and_starts_over():
    backoff = Backoff(1.0, 8.0)
    delays = [backoff.next() for _ in range(8)]
    assert 0.5 <= delays[0] <= 1.0
    assert all(4.0 <= delay <= 8.0 for delay in delays[3:])
    backoff.reset()
    assert backoff.next() <= 1.0


@pytest.mark.parametrize(
    ("given", "delays"),
    [
        ({"first": 0.1, "maximum": 0.5}, [0.1, 0.2, 0.4, 0.5, 0.5]),
        ({"first": 1.0, "maximum": 20.0, "factor": 3.0}, [1.0, 3.0, 9.0, 20.0, 20.0]),
        ({"first": 0.0, "maximum": 2.5, "factor": 1.0, "step": 1.0}, [0.0, 1.0, 2.0, 2.5, 2.5]),
        ({"first": 3.0, "maximum": 1.0}, [1.0, 1.0]),
    ],
)
def test_backoff_without_jitter_is_exact(given, delays):
    backoff = Backoff(**given, jitter=0.0)
    for _ in range(2):
        assert [backoff.next() for _ in delays] == delays
        assert backoff.attempts == len(delays)
        backoff.reset()


def test_the_clock_is_ahead_of_everything_it_heard():
    clock = Clock()
    clock.forward()
    assert clock.adjust(40) == 41
    assert clock.adjust(3) == 42
    assert clock.adjust("nonsense") == 43


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01T00:01:00+00:00", 60.0),
        ("1970-01-01T00:01:00", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
        (60, 60.0),
    ],
)
def test_times(value, seconds):
    assert timestamp(value, "eta") == seconds


@pytest.mark.parametrize("value", ["soon", "", "2026-13-01T00:00:00"])
def test_what_is_no_time_is_said_to_be_none(value):
    with pytest.raises(MessageUndecodable, match="the header 'eta' is not an ISO 8601 time"):
        timestamp(value, "eta")
