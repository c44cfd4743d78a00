"""Children of a real worker: recycled after exactly so many tasks or so much memory, and dying real deaths."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from support import ledger, queues
from support.wait import wait_for

DLQ = "celery.dlq"
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(params=["redis", "amqp"])
def broker(request):
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def start(start_worker, client, ledger_path):
    """Return what starts a worker with the rough tasks, on `broker`, and a client of it."""

    def start(broker, *args, conf=None, pool="prefork"):
        backend = "rpc://" if broker.startswith("amqp") else broker
        worker = start_worker(
            "-P", pool, *args, app="support.rough", broker=broker, backend=backend, ledger=ledger_path, conf=conf
        )
        return worker, client(broker, backend)

    return start


# ---------------------------------------------------------------- J


@pytest.mark.acceptance(126, 127)
@pytest.mark.parametrize(
    ("args", "conf"),
    [(["--maxtasksperchild=3"], None), (["--max-tasks-per-child=3"], None), ([], {"CELERYD_MAX_TASKS_PER_CHILD": 3})],
    ids=["old", "new", "setting"],
)
def test_a_child_is_replaced_after_exactly_n_tasks(start, redis_url, args, conf):
    worker, app = start(redis_url, "-c", "1", *args, conf=conf)
    results = [app.tasks["proj.whoami"].delay() for _ in range(12)]
    pids = [result.get(timeout=30)["pid"] for result in results]
    assert list(Counter(pids).values()) == [3] * 4
    (stats,) = app.control.inspect(timeout=5).stats().values()
    assert stats["pool"]["max-tasks-per-child"] == 3
    assert "exited with" not in worker.output
    assert worker.stop() == 0


@pytest.mark.acceptance(128)
def test_no_task_is_lost_while_children_are_replaced(start, broker, ledger_path):
    worker, app = start(broker, "-c", "2", "--max-tasks-per-child=3")
    results = [app.tasks["proj.whoami"].delay() for _ in range(200)]
    pids = Counter(result.get(timeout=40)["pid"] for result in results)
    assert sum(pids.values()) == 200
    assert max(pids.values()) == 3
    assert sum(1 for count in pids.values() if count < 3) <= 2
    assert worker.stop() == 0


@pytest.mark.acceptance(129)
def test_a_child_that_has_grown_too_large_is_replaced_and_named(start, redis_url):
    worker, app = start(redis_url, "-c", "1", "--max-memory-per-child=200000")
    small = app.send_task("rough.grabs", (1,)).get(timeout=20)
    assert app.send_task("rough.grabs", (1,)).get(timeout=20) == small
    assert app.send_task("rough.grabs", (300,)).get(timeout=20) == small
    assert app.send_task("rough.grabs", (1,)).get(timeout=20) != small
    worker.wait_line(r"exceeding memory limit \(\d+KiB / 200000KiB\)")
    assert "exited with" not in worker.output


@pytest.mark.acceptance(130)
@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio", "gevent", "eventlet"])
def test_other_pools_ignore_the_options_and_say_so(start, redis_url, pool):
    if pool in ("gevent", "eventlet"):
        pytest.importorskip("gevent" if pool == "gevent" else "dns", reason=f"the extra {pool} is not installed")
    worker, app = start(redis_url, "--max-tasks-per-child=1", "--max-memory-per-child=1000", pool=pool)
    pids = {app.tasks["proj.whoami"].delay().get(timeout=20)["pid"] for _ in range(3)}
    assert pids == {worker.pid}
    assert len(worker.lines("has no processes to recycle")) == 1
    assert worker.stop() == 0


# ---------------------------------------------------------------- deaths, by the ack matrix

DEATHS = {
    "exit": "exitcode 3",
    "segfault": r"signal 11 \(SIGSEGV\)",
    "9": r"signal 9 \(SIGKILL\)' \(out of memory\?\)",
    "6": r"signal 6 \(SIGABRT\)",
}


def named(worker, words, count=1):
    """Wait until the log has named `count` deaths, each in one line, as `words` say."""
    worker.wait_line(rf"Process 'ForkPoolWorker-\d+' pid:\d+ exited with '{words}", count=count)
    assert len(worker.lines("exited with '")) == count
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("how", DEATHS)
def test_an_early_task_whose_child_dies_has_failed_once(start, broker, ledger_path, how):
    worker, app = start(broker, "-c", "2")
    result = app.send_task("rough.dies", (how, "early"))
    result.get(timeout=20, propagate=False)
    assert (result.state, type(result.result).__name__) == ("FAILURE", "WorkerLostError")
    assert app.tasks["proj.add"].delay(1, 2).get(timeout=20) == 3
    named(worker, DEATHS[how])
    assert worker.stop() == 0
    assert ledger.lines(ledger_path) == ["early"]
    assert queues.waiting(broker) == 0


@pytest.mark.parametrize("how", ["exit", "segfault"])
def test_a_late_task_whose_child_dies_has_failed_once(start, broker, ledger_path, how):
    worker, app = start(broker, "-c", "2")
    result = app.send_task("rough.dies_late", (how, "late"))
    result.get(timeout=20, propagate=False)
    assert (result.state, type(result.result).__name__) == ("FAILURE", "WorkerLostError")
    assert app.tasks["proj.add"].delay(1, 2).get(timeout=20) == 3
    named(worker, DEATHS[how])
    assert worker.stop() == 0
    assert ledger.lines(ledger_path) == ["late"]
    assert queues.waiting(broker) == 0


def test_a_late_task_that_may_run_again_does_so_until_it_is_a_dead_letter(start, broker, ledger_path):
    worker, app = start(broker, "-c", "2")
    app.send_task("rough.dies_again", ("9", "again"))
    wait_for(lambda: queues.waiting(broker, DLQ) == 1, 20, lambda: f"a dead letter: {worker.output}")
    assert app.tasks["proj.add"].delay(1, 2).get(timeout=20) == 3
    named(worker, DEATHS["9"], count=3)
    assert worker.stop() == 0
    assert ledger.lines(ledger_path) == ["again"] * 3
    assert queues.waiting(broker) == 0


@contextlib.contextmanager
def memory_group():
    """Make a group whose members may use 400 MB together, and be in it; leave it again."""
    own = next(
        (line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), ""
    )
    group = MEMORY_GROUPS / f"framework-test-{os.getpid()}-{time.monotonic_ns()}"
    home = MEMORY_GROUPS / own.lstrip("/") / "cgroup.procs"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no memory group can be made here")
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield group
    finally:
        home.write_text(str(os.getpid()))


def test_a_child_that_the_kernel_kills_for_its_memory_is_named_so(start, redis_url, ledger_path):
    with memory_group() as group:
        worker, app = start(redis_url, "-c", "2")
    try:
        (group / "memory.limit_in_bytes").write_text("400000000")
        result = app.send_task("rough.dies", ("oom", "greedy"))
        result.get(timeout=30, propagate=False)
        assert (result.state, type(result.result).__name__) == ("FAILURE", "WorkerLostError")
        named(worker, r"signal 9 \(SIGKILL\)' by the kernel, out of memory")
        assert app.tasks["proj.add"].delay(1, 2).get(timeout=20) == 3
    finally:
        worker.close()
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 30, "the group to be empty")
        group.rmdir()
    assert ledger.lines(ledger_path) == ["greedy"]


def test_children_that_die_at_once_are_replaced_after_growing_pauses(start_worker, redis_url, tmp_path):
    (tmp_path / "hasty.py").write_text(
        "import os\n"
        "from framework import App\n"
        "from framework.api.hook import hookimpl\n"
        f"app = App('hasty', broker={redis_url!r})\n"
        "class Hasty:\n"
        "    @hookimpl\n"
        "    def worker_process_init(self, app, hostname):\n"
        "        os._exit(4)\n"
        "app.register_hooks(Hasty())\n"
    )
    worker = start_worker("-c", "2", app="hasty", app_dir=tmp_path)
    worker.wait_line("the next one starts in 0.4 s", timeout=20)
    pauses = [float(pause) for pause in re.findall(r"next one starts in ([\d.]+) s", worker.output)]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert "exited with 'exitcode 4'" in worker.output
    assert worker.running
    assert worker.stop() == 0


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_children_have_as_long_to_come_up_as_the_setting_says(
    start_worker, client, redis_url, tmp_path, ledger_path, start_method
):
    gate = tmp_path / "gate"
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from framework.api.hook import hookimpl\n"
        "from support.proj import app, note\n"
        "class Slow:\n"
        "    @hookimpl\n"
        "    def worker_process_init(self, app, hostname):\n"
        "        note('set up')\n"
        f"        while not os.path.exists({str(gate)!r}):\n"
        "            time.sleep(0.01)\n"
        "app.register_hooks(Slow())\n"
    )
    worker = start_worker(
        *("-c", "1", "--pool-start-method", start_method),
        app="slow",
        app_dir=tmp_path,
        broker=redis_url,
        ledger=ledger_path,
        conf={"worker_proc_alive_timeout": 0.5},
    )
    client(redis_url).tasks["proj.record_late"].delay("task")
    worker.wait_line(r"not finished its set-up within 0\.5 s \(proc_alive_timeout\): killing it", timeout=60)
    worker.wait_line("in worker_process_init", timeout=60)
    gate.touch()
    wait_for(lambda: "task" in ledger.lines(ledger_path), 60, lambda: f"the task: {worker.output}")
    assert worker.stop() == 0
