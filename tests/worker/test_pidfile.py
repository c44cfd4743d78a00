"""Whose a pidfile is."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys

import pytest

from framework import exitcodes
from framework.worker.process.pidfile import Pidfile, PidfileTaken, holder
from support.processes import alive
from support.wait import wait_for


@pytest.fixture
def file(tmp_path):
    return tmp_path / "w.pid"


def test_a_file_that_cannot_grow_is_not_left_behind(file):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # Python ignores the signal: writing fails as on a full disk
    try:
        with pytest.raises(PidfileTaken, match=r"w\.pid cannot be written: File too large") as raised:
            Pidfile(file).take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.exit_code == exitcodes.CANT_CREATE
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "999999999", "99999999999999999999"])
def test_a_file_that_names_no_process_is_taken_over(text, file):
    file.write_text(text)
    assert holder(file) is None
    Pidfile(file).take()
    assert file.read_text() == f"{os.getpid()}\n"


def test_a_process_that_has_ended_unnoticed_holds_nothing(file):
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        file.write_text(str(child.pid))
        assert holder(file) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began in a file")
def test_a_number_that_has_gone_to_another_program_holds_nothing(file):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        file.write_text(str(child.pid))
        assert holder(file) == child.pid
        # Written long before that process began.
        os.utime(file, (1e9, 1e9))
        assert holder(file) is None
        child.stdin.close()


TAKING = """
import os, sys
from framework.worker.process.pidfile import Pidfile
pidfile = Pidfile(sys.argv[1])
pidfile.take()
print("taken", flush=True)
"""


@contextlib.contextmanager
def taken(file, then="input()"):
    """A process that has taken `file`."""
    command = [sys.executable, "-c", f"{TAKING}{then}", str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"taken\n"
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began in a file")
def test_a_number_that_has_gone_to_another_worker_holds_nothing(file):
    with taken(file.with_name("other.pid")) as other:
        file.write_text(f"{other.pid}\n")
        os.utime(file, (1e9, 1e9))
        assert holder(file) is None
        Pidfile(file).take()
        assert file.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("seconds", [1e9, 4e9])
def test_a_worker_keeps_its_file_whatever_the_clock_says(seconds, file):
    with taken(file) as worker:
        os.utime(file, (seconds, seconds))
        assert holder(file) == worker.pid
        with pytest.raises(PidfileTaken, match=f"belongs to process {worker.pid}"):
            Pidfile(file).take()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the files of a process")
def test_a_worker_of_another_container_keeps_its_file(file):
    # The same number means another process in each of two containers that share a directory.
    with taken(file), taken(file.with_name("other.pid")) as other:
        for number in (other.pid, os.getpid()):
            file.write_text(f"{number}\n")
            assert holder(file) is None
            with pytest.raises(PidfileTaken, match="is locked by a process of another container or machine"):
                Pidfile(file).take()
        assert file.read_text() == f"{os.getpid()}\n"


def test_a_process_that_a_worker_has_forked_does_not_keep_the_file(file):
    with taken(file, "print(os.fork() or input(), flush=True)\ninput()") as worker:
        forked = int(worker.stdout.readline())
        worker.kill()
        worker.wait()
        assert alive(forked)
        Pidfile(file).take()
        assert holder(file) == os.getpid()
        worker.stdin.close()
        wait_for(lambda: not alive(forked), 30, "the end of the forked process")


def test_one_of_many_workers_gets_a_stale_file(file):
    file.write_text("999999999\n")
    script = TAKING.replace("pidfile.take()", "input()\npidfile.take()") + "input()"
    command = [sys.executable, "-c", script, str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for worker in workers:
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    got = [worker for worker in workers if worker.stdout.readline() == b"taken\n"]
    assert [worker.pid for worker in got] == [holder(file)]
    for worker in workers:
        _, errors = worker.communicate(b"\n")
        assert worker in got or f"belongs to process {got[0].pid}" in errors.decode()
