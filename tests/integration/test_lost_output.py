"""The log of a worker that cannot be written: its reader is gone, the disk is full, the directory has vanished."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from support import ledger
from support.processes import kill_all, members
from support.wait import wait_for
from support.workers import environment

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]
APP = """
import os, sys, time
from framework import App
from framework.log import get_task_logger
from support import ledger

app = App("lost", broker="sqlite:///lost.db")
logger = get_task_logger(__name__)

@app.task(ignore_result=True)
def speak(number, seconds=0.0):
    print("out", number)
    print("err", number, file=sys.stderr, flush=True)
    logger.warning("log %s", number)
    ledger.append(os.environ["TEST_LEDGER"], number)
    time.sleep(seconds)
"""


class Worker:
    """A worker of the application in `directory`, and a way to send it tasks."""

    def __init__(self, directory, process):
        self.process = process
        self.path = directory / "ledger"
        self._directory = directory

    def speak(self, *numbers, seconds=0.0):
        """Have tasks with these numbers run; wait until all have."""
        script = f"from lost import speak\nfor n in {numbers}: speak.delay(n, {seconds})"
        subprocess.run([sys.executable, "-c", script], cwd=self._directory, env=environment(), check=True, timeout=60)
        wait_for(lambda: {str(n) for n in numbers} <= set(ledger.lines(self.path)), 60, lambda: str(self.path))


@pytest.fixture
def start(tmp_path):
    """Start a worker: `start(*args, stdout=…, stderr=…)`."""
    (tmp_path / "lost.py").write_text(APP)
    found = []

    def start(*args, **streams):
        process = subprocess.Popen(
            [sys.executable, "-m", "framework", "-A", "lost", "worker", "-c", "2", *args],
            cwd=tmp_path,
            env=environment({"TEST_LEDGER": str(tmp_path / "ledger")}),
            start_new_session=True,
            **streams,
        )
        found.append(process)
        return Worker(tmp_path, process)

    yield start
    for process in found:
        kill_all(members(process.pid))
        process.wait(30)


@contextlib.contextmanager
def reader_that_leaves():
    """Give a pipe's end to write, and what waits for the worker's ready line and then closes the other end."""
    read, write = os.pipe()

    def leave():
        os.close(write)
        seen = b""
        while b" ready." not in seen:
            data = os.read(read, 65536)
            assert data, seen
            seen += data
        os.close(read)

    yield write, leave


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_works_and_stops_without_a_reader(pool, start):
    with reader_that_leaves() as (write, leave):
        worker = start("-P", pool, "-l", "info", stdout=write, stderr=write)
        leave()
    worker.speak(1, 2, 3)
    worker.process.send_signal(signal.SIGUSR1)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0


def test_ctrl_c_twice_without_a_reader(start):
    with reader_that_leaves() as (write, leave):
        worker = start("-l", "info", stdout=write, stderr=write)
        leave()
    worker.speak(1, seconds=600)

    def ended():
        worker.process.send_signal(signal.SIGINT)
        return worker.process.poll() is not None

    wait_for(ended, 60, "the end of the worker")
    assert worker.process.returncode == 1


def test_a_worker_that_nobody_ever_reads(start):
    read, write = os.pipe()
    os.close(read)
    worker = start("-l", "info", stdout=write, stderr=write)
    os.close(write)
    worker.speak(1)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "eventlet"])
def test_a_full_disk_under_the_log_is_one_line(pool, start, tmp_path):
    with (tmp_path / "err").open("wb") as err, open("/dev/full", "wb") as full:
        worker = start("-P", pool, "-l", "info", "--logfile=/dev/full", stdout=full, stderr=err)
        worker.speak(*range(20))
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0
    assert (tmp_path / "err").read_text() == (
        "framework: the log file /dev/full cannot be written: No space left on device; lines are dropped and counted "
        "until it can\n"
    )


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_directory_that_vanishes_and_comes_back(pool, start, tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    log = directory / "w.log"
    with (tmp_path / "err").open("wb") as err:
        worker = start("-P", pool, "-c", "1", "-l", "info", f"--logfile={log}", stdout=subprocess.DEVNULL, stderr=err)
        wait_for(lambda: log.exists() and " ready." in log.read_text(), 60, "the ready line")
        directory.rename(tmp_path / "elsewhere")
        worker.speak(*range(5))
        directory.mkdir()
        worker.speak(6)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0
    said = (tmp_path / "err").read_text()
    assert said.count("\n") == 1, said
    assert f"framework: the log file {log} cannot be written: No such file or directory; lines are dropped" in said
    text = log.read_text()
    assert "lines of the log could not be written and were dropped: No such file or directory" in text
    assert "log 6" in text
