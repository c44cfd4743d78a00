"""Many workers on one machine: `framework multi` with real nodes (acceptance C)."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import sys

import pytest

from framework import exitcodes
from support.processes import alive

HOST = socket.gethostname()
PIDFILE = "--pidfile=run/x/%n.pid"
FILES = (PIDFILE, "--logfile=log/x/%n%I.log")


def stats(here, node):
    return here.ok("inspect", "stats", "-d", node)


@pytest.mark.acceptance(34, 35, 36, 50, 96)
def test_nodes_are_started_restarted_and_stopped(place, redis_url):
    here = place(redis_url)
    options = ("2", "-A", "tasks", "-l", "info", "-c4", "-c:2", "1", *FILES, "--statedb=state/%n.state")
    out = here.ok("multi", "start", *options)
    assert re.sub(r" v[\d.]\S*", " ", out) == (
        f"framework multi \n> Starting nodes...\n\t> celery1@{HOST}: OK\n\t> celery2@{HOST}: OK\n"
    )
    pids = [here.pid(f"run/x/celery{number}.pid") for number in (1, 2)]
    for number, size in ((1, 4), (2, 1)):
        here.ready(f"log/x/celery{number}.log")
        assert f'"max-concurrency": {size}' in stats(here, f"celery{number}@{HOST}")
    status = here.ok("multi", "status", "2", PIDFILE)
    assert [line.split()[1:] for line in status.splitlines()[1:]] == [[str(pid), "up", "pong"] for pid in pids]

    os.kill(pids[0], signal.SIGKILL)
    here.gone(pids[0])
    out = here.ok("multi", "restart", *options)
    assert f"> celery1@{HOST}: DOWN\n" in out
    assert f"\t> celery2@{HOST}: TERM -> {pids[1]}\n" in out
    assert f"> Waiting for 1 node -> {pids[1]}" in out
    for number in (1, 2):
        assert f"> Restarting node celery{number}@{HOST}: OK\n" in out
        assert here.pid(f"run/x/celery{number}.pid") not in pids
    here.ready("log/x/celery1.log", count=2)
    here.ready("log/x/celery2.log", count=2)

    out = here.ok("multi", "stopwait", "2", PIDFILE)
    assert out.count(": OK\n") == 2
    assert list((here.path / "run/x").iterdir()) == []
    assert sorted(path.name.partition(".")[0] for path in (here.path / "state").iterdir()) == ["celery1", "celery2"]
    assert here.run("multi", "status", "2", PIDFILE).returncode == exitcodes.UNAVAILABLE


@pytest.mark.acceptance(37)
def test_stop_takes_a_signal_and_kill_needs_none(place, sqlite_url):
    here = place(sqlite_url)
    here.ok("multi", "start", "a", "b", "-P", "solo", "-l", "info", *FILES)
    first, second = here.pid("run/x/a.pid"), here.pid("run/x/b.pid")
    here.ready("log/x/a.log")
    out = here.ok("multi", "stop", "a", PIDFILE, "-QUIT")
    assert f"\t> a@{HOST}: QUIT -> {first}\n" in out
    here.gone(first)
    assert "Cold shutdown" in here.text("log/x/a.log")
    assert alive(second)
    out = here.ok("multi", "kill", "a", "b", PIDFILE)
    assert f"> a@{HOST}: DOWN\n" in out
    assert f"Killing node b@{HOST} ({second})\n" in out
    here.gone(second)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began in a file")
@pytest.mark.parametrize("command", ["stop", "stopwait", "restart", "kill"])
def test_a_number_that_another_worker_has_got_is_never_signalled(command, place, sqlite_url):
    here = place(sqlite_url)
    here.ok("multi", "start", "a", "-P", "solo", "-l", "info", *FILES)
    other = here.pid("run/x/a.pid")
    here.ready("log/x/a.log")
    stale = here.path / "run/x/b.pid"
    stale.write_text(f"{other}\n")
    os.utime(stale, (1e9, 1e9))
    assert here.run("multi", "status", "b", PIDFILE).returncode == exitcodes.UNAVAILABLE
    out = here.ok("multi", command, "b", "-P", "solo", *FILES)
    assert f"> b@{HOST}: DOWN\n" in out
    assert str(other) not in out
    if command != "restart":
        here.ok("multi", "start", "b", "-P", "solo", *FILES)
    assert here.pid("run/x/b.pid") != other
    # A signal would have stopped it: it answers, and runs a task, after what it was spared.
    here.ok("inspect", "ping", "-d", f"a@{HOST}")
    assert "shutdown" not in here.text("log/x/a.log").lower()
    assert alive(other)


def test_a_start_that_fails_is_told_and_the_others_start(place, sqlite_url):
    here = place(sqlite_url)
    done = here.run("multi", "start", "a", "b", "-P", "solo", "-P:b", "sol", *FILES)
    assert done.returncode == exitcodes.CONFIG
    assert f"\t> a@{HOST}: OK\n\t> b@{HOST}: FAILED\n" in done.stdout
    assert f"b@{HOST} did not start:\n\tframework: error: no pool named 'sol' is installed" in done.stderr
    again = here.run("multi", "start", "a", "-P", "solo", *FILES)
    assert again.returncode == exitcodes.CANT_CREATE
    assert f"belongs to process {here.pid('run/x/a.pid')}, which is running" in again.stderr


def test_declared_nodes_need_no_words(place, sqlite_url):
    declared = """
[nodes.web]
pool = "solo"
pidfile = "run/%n.pid"
logfile = "%n.log"

[nodes.mail]
pool = "threads"
concurrency = 3
pidfile = "run/%n.pid"
logfile = "%n.log"
"""
    here = place(sqlite_url, declared)
    here.ok("multi", "start", "-q")
    status = here.ok("multi", "status")
    assert [line.split()[0] for line in status.splitlines()[1:]] == [f"web@{HOST}", f"mail@{HOST}"]
    assert '"max-concurrency": 3' in stats(here, f"mail@{HOST}")
    here.ok("multi", "stopwait", "mail", "-q")
    status = here.run("multi", "status")
    assert status.returncode == exitcodes.INCOMPLETE
    assert "down" in status.stdout
    here.ok("multi", "stopwait", "-q")


def test_nodes_go_to_the_directory_that_is_named(place, sqlite_url):
    here = place(sqlite_url)
    (here.path / "sub").mkdir()
    options = ("1", "--workdir=sub", "--config=../framework.toml", PIDFILE)
    here.ok("multi", "start", *options, "-A", "tasks", "-P", "solo", "--logfile=%n.log",
            env={"PYTHONPATH": str(here.path)})  # fmt: skip
    pid = here.pid("sub/run/x/celery1.pid")
    assert (here.path / "sub" / "celery1.log").exists()
    here.ok("multi", "stopwait", *options, "-A", "tasks", env={"PYTHONPATH": str(here.path)})
    assert not alive(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a worker for another group")
def test_directories_belong_to_whom_the_node_runs_as(place, sqlite_url):
    here = place(sqlite_url)
    group = pwd.getpwnam("nobody").pw_gid
    here.ok("multi", "start", "1", "-P", "solo", f"--gid={group}", *FILES)
    assert {(here.path / name).stat().st_gid for name in ("run", "run/x", "log", "log/x")} == {group}
    assert here.path.stat().st_gid == os.getegid()
    here.ok("multi", "stopwait", "1", "-q", PIDFILE)
