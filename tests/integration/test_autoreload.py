"""Workers that run new code when it is saved (acceptance M 162-175)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from framework import App
from support import workers
from support.processes import alive, members
from support.wait import wait_for

SERVER = "framework_pools.prefork.server"
POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]

APP = """
import os
from framework import App

app = App("live", broker=os.environ["TEST_BROKER_URL"], backend=os.environ["TEST_RESULT_URL"])
app.conf.imports = ["live_helper"]
"""
TASKS = """
import os
import time
from live import app
from live_helper import helped

VALUE = {value!r}

@app.task(name="live.value")
def value():
    return [VALUE, helped(), os.getpid()]

@app.task(name="live.hold")
def hold(gate):
    open(gate + ".on", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.01)
    return VALUE
"""
HELPER = """
def helped():
    return {value!r}
"""


class Live:
    """A worker in a directory whose files are edited."""

    def __init__(self, directory: Path, worker: workers.WorkerProcess, app: App) -> None:
        self.directory = directory
        self.worker = worker
        self.app = app

    @property
    def tasks(self) -> Path:
        return self.directory / "live_tasks.py"

    def value(self) -> list[Any]:
        """Return what the tasks' module, and the helper's, hold, and the process."""
        return self.app.send_task("live.value").get(timeout=20)

    def runs(self, *expected: object) -> None:
        """Wait until the tasks return `expected`, of the modules' values."""
        wait_for(
            lambda: self.value()[: len(expected)] == list(expected), 15, lambda: f"{expected}: {self.worker.output}"
        )

    def detected(self) -> list[str]:
        return self.worker.lines("Detected modified modules")


@contextlib.contextmanager
def live(url: str, directory: Path, pool: str, *args: str, **env: str) -> Iterator[Live]:
    (directory / "live.py").write_text(APP)
    (directory / "live_tasks.py").write_text(TASKS.format(value="one"))
    (directory / "live_helper.py").write_text(HELPER.format(value="help"))
    variables = workers.app_environment(broker=url, backend=url) | env
    arguments = ("-P", pool, "-c", "2", "-I", "live_tasks", "--autoreload", *args)
    with (
        workers.start_worker(directory, *arguments, app="live", env=variables, log=directory / "worker.log") as worker,
        contextlib.closing(App("live", broker=url, backend=url)) as app,
    ):
        yield Live(directory, worker.wait_ready(), app)


@pytest.fixture(scope="module", params=POOLS)
def fleet(request, redis_server, tmp_path_factory) -> Iterator[Live]:
    with live(redis_server.fresh_url(), tmp_path_factory.mktemp("live"), request.param) as made:
        yield made


@pytest.fixture
def chosen(fleet):
    """What differs between a pool of processes and one in the worker's own: on one of each."""
    if not {"prefork", "threads"} & set(fleet.worker.argv):
        pytest.skip("the same as with threads")
    return fleet


@pytest.fixture
def single(fleet):
    """What no pool has a part in."""
    if "prefork" not in fleet.worker.argv:
        pytest.skip("what no pool has a part in")
    return fleet


@pytest.mark.acceptance(162, 163, 164, 167, 168, 169, 171)
def test_what_is_saved_runs_and_running_tasks_end_with_the_old_code(fleet):
    assert fleet.worker.lines("Autoreload watches 2 modules by inotify")
    fleet.tasks.write_text(TASKS.format(value="one"))
    before = fleet.value()
    gate = fleet.directory / uuid4().hex
    held = fleet.app.send_task("live.hold", (str(gate),))
    wait_for(gate.with_suffix(".on").exists, 30)
    try:
        fleet.tasks.write_text(TASKS.format(value="two"))
        fleet.worker.wait_line(r"Detected modified modules: \['live_tasks'\]")
        if "solo" not in fleet.worker.argv:
            fleet.runs("two")
    finally:
        gate.touch()
    assert held.get(timeout=20) == ("one" if "prefork" in fleet.worker.argv else "two")
    fleet.runs("two")
    # A module that others import: those are reloaded too.
    (fleet.directory / "live_helper.py").write_text(HELPER.format(value="more help"))
    fleet.runs("two", "more help")
    assert (fleet.value()[2] != before[2]) == ("prefork" in fleet.worker.argv)


def test_no_task_is_lost_over_it(fleet):
    results = []
    for number in range(3):
        count = len(fleet.detected())
        fleet.tasks.write_text(TASKS.format(value=f"stream {number}"))
        while len(fleet.detected()) == count:
            results.append(fleet.app.send_task("live.value"))
    fleet.runs("stream 2")
    # Some with the old code, some with the new one: all of them once.
    for result in results:
        assert len(result.get(timeout=20)) == 3
    fleet.tasks.write_text(TASKS.format(value="two"))
    fleet.runs("two")


@pytest.mark.acceptance(166)
def test_what_does_not_change_the_contents_does_nothing(single):
    single.runs("two")
    count = len(single.detected())
    for _ in range(5):
        os.utime(single.tasks)
    single.tasks.write_text(single.tasks.read_text())
    # What comes after it is noticed, and nothing was before.
    single.tasks.write_text(TASKS.format(value="touched"))
    single.runs("touched")
    assert len(single.detected()) == count + 1


@pytest.mark.acceptance(175)
def test_a_file_that_is_saved_by_renaming_is_seen(single):
    for value in ("renamed", "again"):
        new = single.directory / "live_tasks.py.new"
        new.write_text(TASKS.format(value=value))
        new.rename(single.tasks)
        single.runs(value)


def test_a_burst_of_saves_is_one_reload(single):
    count = len(single.detected())
    for number in range(20):
        single.tasks.write_text(TASKS.format(value=number))
    single.runs(19)
    assert len(single.detected()) - count <= 2


def test_two_saves_within_a_second_of_the_same_length_are_two(chosen):
    for value in ("aaa", "bbb", "ccc"):
        chosen.tasks.write_text(TASKS.format(value=value))
        chosen.runs(value)


@pytest.mark.acceptance(170)
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("def value(:\n", r"live_tasks.py, line \d+: SyntaxError: invalid syntax"),
        ("raise RuntimeError('not yet')\n", r"cannot reload live_tasks: RuntimeError\('not yet'\) \(.*, line \d+\)"),
    ],
    ids=["syntax", "import"],
)
def test_code_that_cannot_be_loaded_leaves_the_old_one(chosen, broken, message):
    chosen.tasks.write_text(TASKS.format(value="sound"))
    chosen.runs("sound")
    count = len(chosen.worker.lines("The new code cannot be loaded"))
    chosen.tasks.write_text(TASKS.format(value="broken") + broken)
    chosen.worker.wait_line("The new code cannot be loaded.*" + message, count=1)
    assert len(chosen.worker.lines("The new code cannot be loaded")) == count + 1
    assert [chosen.value()[0] for _ in range(4)] == ["sound"] * 4
    chosen.tasks.write_text(TASKS.format(value="mended"))
    chosen.runs("mended")


def test_a_file_that_is_gone_runs_on_until_it_is_back(single):
    before = single.value()[0]
    single.tasks.unlink()
    assert single.value()[0] == before
    single.tasks.write_text(TASKS.format(value="back"))
    single.runs("back")


@pytest.mark.acceptance(165)
def test_a_module_that_comes_by_pool_restart_is_watched(chosen):
    late = chosen.directory / "live_late.py"
    source = "from live import app\n@app.task(name='live.late')\ndef late():\n    return {value!r}\n"
    late.write_text(source.format(value="first"))
    arguments = {"modules": ["live_late"]}
    replies = chosen.app.control.broadcast("pool_restart", arguments, reply=True, timeout=20, limit=1)
    assert list(replies[0].values()) == [{"ok": "reload started"}]

    def result() -> object:
        return chosen.app.send_task("live.late").get(timeout=20, propagate=False)

    wait_for(lambda: result() == "first", 30, lambda: chosen.worker.output)
    late.write_text(source.format(value="second"))
    chosen.worker.wait_line(r"Detected modified modules: \['live_late'\]")
    wait_for(lambda: result() == "second", 30, lambda: chosen.worker.output)


def test_what_gets_ready_for_new_code_may_be_killed_and_is_not_left_behind(redis_url, tmp_path):
    with live(redis_url, tmp_path, "prefork") as fleet:

        def ready() -> list[psutil.Process]:
            # The servers at work have other titles.
            return [process for process in members(fleet.worker.pid) if SERVER in process.cmdline()]

        fleet.tasks.touch()
        wait_for(ready, 20, lambda: fleet.worker.output)
        [idle] = ready()
        idle.kill()
        wait_for(lambda: not alive(idle.pid), 20)
        fleet.tasks.write_text(TASKS.format(value="without it"))
        fleet.runs("without it")
        fleet.tasks.touch()
        wait_for(ready, 20, lambda: fleet.worker.output)
        assert fleet.worker.stop() == 0
        assert members(fleet.worker.pid) == []


@pytest.mark.acceptance(173)
def test_stat_can_be_forced(redis_url, tmp_path):
    with live(redis_url, tmp_path, "prefork", CELERYD_FSNOTIFY="stat") as fleet:
        assert fleet.worker.lines("Autoreload watches 2 modules by stat")
        fleet.tasks.write_text(TASKS.format(value="seen"))
        fleet.runs("seen")


@pytest.mark.acceptance(174)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fanotify", "no fsnotify named 'fanotify' is installed; did you mean 'inotify'?"),
        ("kqueue", "kqueue is a part of macOS and the BSDs"),
    ],
)
def test_what_cannot_be_forced_is_said_at_the_start(sqlite_url, name, message):
    env = workers.app_environment(broker=sqlite_url) | {"CELERYD_FSNOTIFY": name}
    done = workers.run_command("-A", "proj", "worker", "--autoreload", env=env)
    assert done.returncode
    assert re.search(re.escape(message), done.stderr), done.stderr
