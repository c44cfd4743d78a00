"""Log files of the pool of processes: one for each place in the pool, whoever comes and goes there."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest

from support.wait import wait_for

NODE = "worker1@example.com"


@pytest.fixture(params=["fork", "spawn"])
def files(request, redis_url, start_worker, client, tmp_path):
    """Return what starts a worker whose log goes into files, and a client of it."""

    def start(*args, name="%n-%i.log", conf=None):
        directory = tmp_path / "logs"
        directory.mkdir()
        worker = start_worker(
            "-n", NODE, "-c", "2", f"--logfile={directory}/{name}", "-l", "info",
            "--pool-start-method", request.param, *args,
            broker=redis_url, backend=redis_url, conf=conf, ready=False,
        )  # fmt: skip
        main = directory / ("worker1-0.log" if "%i" in name else "worker1.log")
        wait_for(lambda: main.exists() and f"{NODE} ready." in main.read_text(), 20, lambda: worker.output)
        return worker, client(redis_url, redis_url), directory

    start.start_method = request.param
    return start


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def done_in(path):
    """Return the ids of the tasks that a child has logged in `path`."""
    return re.findall(r"Task proj\.\w+\[([^]]+)\] succeeded", path.read_text())


def children(app):
    (stats,) = app.control.inspect(timeout=5).stats().values()
    return stats["pool"]["processes"]


@pytest.mark.acceptance(42, 44)
def test_each_process_writes_its_own_file(files):
    worker, app, directory = files()
    wait_for(lambda: len(names(directory)) == 3, 30, "three files")
    assert names(directory) == ["worker1-0.log", "worker1-1.log", "worker1-2.log"]
    results = [app.tasks["proj.sleeptask"].delay(0.05) for _ in range(20)]
    for result in results:
        result.get(timeout=20)
    assert done_in(directory / "worker1-0.log") == []
    own = [done_in(directory / f"worker1-{index}.log") for index in (1, 2)]
    assert all(own)
    assert sorted(own[0] + own[1]) == sorted(result.id for result in results)
    assert "succeeded" not in worker.output
    assert worker.stop() == 0


@pytest.mark.acceptance(43)
def test_the_index_with_its_separator(files):
    worker, app, directory = files(name="%n%I.log")
    app.tasks["proj.add"].delay(1, 2).get(timeout=20)
    wait_for(lambda: len(names(directory)) == 3, 30, "three files")
    assert names(directory) == ["worker1-1.log", "worker1-2.log", "worker1.log"]
    assert worker.stop() == 0


@pytest.mark.acceptance(45)
def test_children_that_die_leave_their_number_to_others(files):
    _worker, app, directory = files()
    for _ in range(5):
        before = wait_for(lambda: len(children(app)) == 2 and children(app), 30, "two children")
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda before=before: not psutil.pid_exists(before[0]), 30, "its end")
        assert app.tasks["proj.add"].delay(1, 2).get(timeout=20) == 3
        wait_for(lambda before=before: len(set(children(app)) - {before[0]}) == 2, 30, "another child")
    wait_for(lambda: len(names(directory)) >= 3, 30, "three files")
    assert names(directory) == ["worker1-0.log", "worker1-1.log", "worker1-2.log"]


@pytest.mark.acceptance(47)
def test_recycled_children_leave_their_number_to_others(files):
    _worker, app, directory = files("--max-tasks-per-child=1")
    count = 20 if files.start_method == "fork" else 6
    results = [app.tasks["proj.whoami"].delay() for _ in range(count)]
    assert len({result.get(timeout=30)["pid"] for result in results}) == count
    assert names(directory) == ["worker1-0.log", "worker1-1.log", "worker1-2.log"]
    logged = [*done_in(directory / "worker1-1.log"), *done_in(directory / "worker1-2.log")]
    assert sorted(logged) == sorted(result.id for result in results)


@pytest.mark.acceptance(48)
def test_children_that_are_killed_at_their_limit_leave_their_number_to_others(files):
    _worker, app, directory = files("--time-limit=0.3")
    results = [app.tasks["proj.sleeptask"].delay(30) for _ in range(6)]
    for result in results:
        result.get(timeout=30, propagate=False)
        assert result.state == "FAILURE"
    assert app.tasks["proj.add"].delay(1, 2).get(timeout=20) == 3
    assert names(directory) == ["worker1-0.log", "worker1-1.log", "worker1-2.log"]


@pytest.mark.acceptance(203)
def test_stats_tell_the_workers_limits(files):
    _worker, app, _directory = files("--time-limit=60", "--soft-time-limit=30.5", "--max-tasks-per-child=7")
    (stats,) = app.control.inspect(timeout=5).stats().values()
    assert stats["pool"]["timeouts"] == [30.5, 60]
    assert stats["pool"]["max-tasks-per-child"] == 7
