"""Workers in the background: detached, their files, and whom they run as."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys

import psutil
import pytest

from framework import exitcodes
from support.wait import wait_for

HOST = socket.gethostname()


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_detached_worker_has_begun_when_the_command_returns(pool, place, redis_url):
    here = place(redis_url)
    out = here.ok("worker", "-D", "-P", pool, "-c", "1", "-l", "info", "--pidfile=%n.pid", "-f", "%n.log")
    pid = here.pid("celery.pid")
    assert out == f"celery@{HOST} runs in the background as process {pid}; its log is celery.log\n"
    process = psutil.Process(pid)
    assert process.terminal() is None
    assert os.getsid(pid) == pid
    here.ready("celery.log")
    result = here.ok("call", "tasks.add", "--args", "[2, 3]", "--wait")
    assert "5" in result
    process.terminate()
    here.gone(pid)
    assert not (here.path / "celery.pid").exists()
    assert "Warm shutdown" in here.text("celery.log")
    wait_for(lambda: here.alive() == [], 30, "nothing left")


def test_hup_restarts_a_detached_worker_in_its_process(place, redis_url):
    here = place(redis_url)
    (here.path / "sub").mkdir()
    here.ok("worker", "--workdir=sub", "-A", "tasks", "-D", "-c", "1", "-l", "info", "--pidfile=w.pid", "-f", "w.log",
            "--config", "../framework.toml", env={"PYTHONPATH": str(here.path)})  # fmt: skip
    pid = here.pid("sub/w.pid")
    here.ready("sub/w.log")
    os.kill(pid, signal.SIGHUP)
    here.ready("sub/w.log", count=2)
    assert here.pid("sub/w.pid") == pid


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["-P", "nope"], exitcodes.CONFIG, "no pool named 'nope' is installed"),
        (["-A", "nothing"], exitcodes.CONFIG, "there is no module nothing"),
        (["--executable=/no/python"], exitcodes.CONFIG, "the worker cannot be run with /no/python"),
        (["-f", "no/such/w.log"], exitcodes.CONFIG, "the log file no/such/w.log cannot be opened: No such file"),
        (["--pidfile=no/w.pid"], exitcodes.CANT_CREATE, "the pidfile no/w.pid cannot be written: No such file"),
        (["--uid=nobdy"], exitcodes.CONFIG, "the user nobdy (--uid) does not exist; did you mean nobody?"),
        (["--umask=999"], exitcodes.CONFIG, "the umask (--umask) is '999'"),
    ],
)
def test_a_start_that_fails_is_told_at_once(options, code, text, place, sqlite_url):
    here = place(sqlite_url)
    done = here.run("worker", "--detach", *options)
    assert done.returncode == code
    assert done.stderr.count("framework: error: ") == 1, done.stderr
    assert text in done.stderr
    wait_for(lambda: here.alive() == [], 20, lambda: str(here.alive()))


def test_a_worker_that_is_killed_as_it_starts_is_told_of(place, sqlite_url):
    here = place(sqlite_url)
    (here.path / "tasks.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    done = here.run("worker", "--detach")
    assert done.returncode == exitcodes.SOFTWARE
    assert done.stderr == "framework: error: the worker was killed by SIGKILL before it had started\n"


@pytest.mark.acceptance(51)
def test_a_pidfile_is_removed_taken_over_and_refused(place, sqlite_url):
    here = place(sqlite_url)
    (here.path / "w.pid").write_text("999999999\n")
    start = ("worker", "-D", "-q", "-P", "solo", "-l", "info", "--pidfile=w.pid", "-f", "w.log")
    assert here.ok(*start) == ""
    pid = here.pid("w.pid")
    assert "Stale pidfile exists - Removing it." in here.text("w.log")
    refused = here.run(*start)
    assert refused.returncode == exitcodes.CANT_CREATE
    assert f"the pidfile w.pid belongs to process {pid}, which is running" in refused.stderr
    assert here.pid("w.pid") == pid
    here.ready("w.log")
    os.kill(pid, signal.SIGKILL)
    here.gone(pid)
    here.ok(*start)
    assert here.pid("w.pid") != pid


@pytest.mark.acceptance(39, 40, 41, 49)
def test_files_are_named_after_the_node(place, redis_url):
    here = place(redis_url)
    for template, log in (("%h.log", "george.example.com.log"), ("%n.log", "w1.log"), ("%d", "example.com")):
        here.ok("worker", "-D", "-c", "1", "-l", "info", "-n", "w1@george.example.com", "-f", template,
                "--pidfile=%n-%d%I.pid", "--statedb=%h.%i.state")  # fmt: skip
        here.ready(log)
        pid = here.pid("w1-example.com.pid")
        os.kill(pid, signal.SIGTERM)
        here.gone(pid)
        assert list(here.path.glob("george.example.com.0.state*"))


BECOME = """
import os, sys
from framework.worker.process.privileges import become, mask
from framework.exceptions import ConfigError
become("nobody", None)
become("nobody", None)
mask("027")
try:
    become("root", None)
except ConfigError as error:
    print(error)
print(os.getresuid(), os.getresgid(), os.getgroups(), oct(os.umask(0)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_has_become_another_user_stays_so():
    done = subprocess.run([sys.executable, "-c", BECOME], capture_output=True, text=True, check=True)
    refused, ids = done.stdout.splitlines()
    assert refused == "only root can run a worker as another user or group: leave --uid and --gid out"
    nobody = pwd.getpwnam("nobody")
    assert ids == f"{(nobody.pw_uid,) * 3} {(nobody.pw_gid,) * 3} [{nobody.pw_gid}] 0o27"


def test_a_worker_runs_with_a_group_and_a_mask(place, sqlite_url):
    here = place(sqlite_url)
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid if os.geteuid() == 0 else os.getegid())
    here.ok("worker", "-D", "-q", "-P", "solo", f"--gid={group.gr_name}", "--umask=077", "--pidfile=w.pid", "-fw.log")
    assert set(psutil.Process(here.pid("w.pid")).gids()) == {group.gr_gid}
    assert stat.S_IMODE((here.path / "w.log").stat().st_mode) == 0o600


def test_an_executable_of_ones_own(place, sqlite_url):
    here = place(sqlite_url)
    wrapper = here.path / "python"
    wrapper.write_text(f'#!/bin/sh\necho "by the wrapper" >&2\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    done = here.run("worker", "-D", "-q", "-P", "solo", f"--executable={wrapper}", "--pidfile=w.pid")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "by the wrapper\n")
    assert psutil.Process(here.pid("w.pid")).is_running()


def test_children_follow_a_rotated_log_and_write_json(place, redis_url):
    here = place(redis_url)
    here.ok("worker", "-D", "-q", "-c", "1", "-l", "info", "--log-json", "--pidfile=w.pid", "-f", "w.log")
    here.ready("w.log")
    (here.path / "w.log").rename(here.path / "w.log.1")
    child = int(here.ok("call", "tasks.say", "--args", '["hello"]', "--wait"))
    wait_for(lambda: "succeeded" in here.text("w.log"), 30, lambda: here.text("w.log"))
    lines = [json.loads(line) for line in here.text("w.log").splitlines()]
    (said,) = [line for line in lines if line["message"] == "hello"]
    assert (said["pid"], said["task"], said["level"]) == (child, "tasks.say", "WARNING")
    assert said["process"].startswith("ForkPoolWorker-")
    assert len(said["id"]) == 36
    assert "hello" not in here.text("w.log.1")
    assert all(line.startswith("{") for line in here.text("w.log.1").splitlines() if " ready." in line)
