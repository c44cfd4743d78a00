"""The solo pool in a real main thread: signals, interruptions of a sleep, one job at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from framework.api.pool import FAILURE, SUCCESS, TERMINATED, TIMED_OUT
from framework_pools.solo import SoloPool
from support.pool_harness import Harness
from support.wait import wait_for

TESTS = str(Path(__file__).resolve().parents[1])
SCRIPT = f"""
import json, os, signal, sys, threading, time
sys.path.insert(0, {TESTS!r})
from framework_pools.solo import SoloPool
from support.pool_harness import Harness
from support.wait import wait_for

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(time.monotonic()))
harness = Harness(SoloPool, 1)
harness.pool.start()
harness.thread.start()
report = {{}}

def drive():
    report["names"] = harness.run(b"where")[0].note
    began = time.monotonic()
    report["hard"] = list(harness.run(b"sleep:30", hard=0.2)[0])
    report["soft"] = list(harness.run(b"sleep:30", soft=0.2)[0])
    [seq] = harness.submit(b"sleep:30")
    harness.wait_begun(seq)
    wait_for(lambda: harness.call(harness.pool.terminate, seq, 15), 5)
    report["terminated"] = list(harness.wait([seq])[0])
    os.kill(os.getpid(), signal.SIGTERM)
    wait_for(lambda: heard, 20, "the handler, while nothing runs")
    heard.clear()
    [seq] = harness.submit(b"sleep:0.3")
    harness.wait_begun(seq)
    os.kill(os.getpid(), signal.SIGTERM)
    wait_for(lambda: heard, 20, "the handler, while a job runs")
    report["after"] = list(harness.wait([seq])[0])
    report["capacity"] = harness.call(harness.pool.capacity)
    report["problems"] = harness.problems
    report["took"] = time.monotonic() - began
    harness.call(harness.pool.stop, time.monotonic())

driver = threading.Thread(target=drive)
driver.start()
harness.pool.run_main()
driver.join()
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_jobs_run_in_the_main_thread(report):
    assert report["names"].endswith("MainThread")


def test_limits_and_termination_interrupt_a_sleep(report):
    assert report["hard"][1] == TIMED_OUT
    assert report["soft"][1] == FAILURE
    assert "SoftTimeLimitExceeded" in report["soft"][4]
    assert report["terminated"][1] == TERMINATED
    assert report["took"] < 20  # of ninety seconds asked for


def test_signals_are_handled_while_waiting_and_while_running(report):
    assert report["after"][1] == SUCCESS


def test_every_promise_is_kept(report):
    assert report["problems"] == []


def test_a_job_that_does_not_stop_keeps_its_place():
    with Harness(SoloPool, 1) as pool:
        stuck = pool.submit(b"sleep:1.5", hard=0.1)
        assert pool.wait(stuck)[0].code == TIMED_OUT
        assert pool.call(pool.pool.capacity) == 0
        [after] = pool.submit(b"noop")
        assert pool.wait([after])[0].code == SUCCESS


def test_run_main_after_stop_returns():
    harness = Harness(SoloPool, 1)
    harness.pool.start()
    harness.pool.stop(0.0)
    main = threading.Thread(target=harness.pool.run_main)
    main.start()
    main.join(5)
    assert not main.is_alive()
    harness.loop.close()


def test_one_job_at_a_time():
    with Harness(SoloPool, 1) as pool:
        [first] = pool.submit(b"sleep:0.2")
        [second] = pool.submit(b"noop")
        pool.wait_begun(first)
        assert second not in pool.begun
        wait_for(lambda: second in pool.ended, 5, "the second")
        assert pool.ended_at[second] >= pool.ended_at[first]
