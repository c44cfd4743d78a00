"""Whose a pidfile is."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from framework import exitcodes
from framework.worker.process.pidfile import Pidfile, PidfileTaken, holder
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began in a file")
def test_a_worker_keeps_its_file_whatever_the_clock_says(file):
    with subprocess.Popen([sys.executable, "-c", "input()", "framework"], stdin=subprocess.PIPE) as child:
        file.write_text(str(child.pid))
        os.utime(file, (1e9, 1e9))
        # The forked child may not have become the program yet.
        command = Path(f"/proc/{child.pid}/cmdline")
        wait_for(lambda: b"framework" in command.read_bytes(), 30, "the program")
        assert holder(file) == child.pid
        with pytest.raises(PidfileTaken, match=f"belongs to process {child.pid}"):
            Pidfile(file).take()
        child.communicate(b"\n")
