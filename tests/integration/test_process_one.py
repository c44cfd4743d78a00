"""Workers as process 1 of a container, or below no other init: processes that tasks leave behind are reaped."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from framework import exitcodes
from support.wait import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sub-reapers and PID namespaces")

#: Runs its arguments as a process that gets the orphans of its descendants, as process 1 does.
SUBREAPER = (
    sys.executable, "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
)  # fmt: skip
#: Runs its arguments as process 1 of a namespace.
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def has_namespaces():
    return shutil.which("unshare") and subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


def zombies_below(pid):
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            found += [process] if process.status() == psutil.STATUS_ZOMBIE else []
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_orphans_of_tasks_are_reaped(start_worker, client, redis_url, pool):
    worker = start_worker("-P", pool, "-c", "2", app="support.rough", broker=redis_url, backend=redis_url,
                          through=SUBREAPER)  # fmt: skip
    app = client(redis_url, redis_url)
    orphans = app.send_task("rough.leaves_orphans", (5,)).get(timeout=60)
    assert len(set(orphans)) == 5
    wait_for(lambda: not any(map(psutil.pid_exists, orphans)), 60, "the orphans to be reaped")
    # The processes that a task waits for are still its own.
    results = [app.send_task("rough.ends_with", (code,)) for code in range(20)]
    assert [result.get(timeout=60) for result in results] == list(range(20))
    wait_for(lambda: not zombies_below(worker.pid), 60, "no defunct process")
    assert worker.stop() == exitcodes.OK


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_as_process_1(start_worker, client, redis_url, pool):
    if not has_namespaces():
        pytest.skip("no PID namespace can be made here")
    worker = start_worker("-P", pool, "-c", "2", app="support.rough", broker=redis_url, backend=redis_url,
                          through=NAMESPACE)  # fmt: skip
    app = client(redis_url, redis_url)
    assert len(app.send_task("rough.leaves_orphans", (5,)).get(timeout=60)) == 5
    wait_for(lambda: not zombies_below(worker.pid), 60, "no defunct process")
    (first,) = psutil.Process(worker.pid).children()
    first.send_signal(signal.SIGTERM)
    # `unshare` ends with the exit code of process 1.
    assert worker.wait() == exitcodes.OK
    assert "Warm shutdown" in worker.output


@pytest.mark.parametrize(
    ("signum", "code", "says"),
    [
        (signal.SIGTERM, exitcodes.OK, "Warm shutdown"),
        (signal.SIGINT, exitcodes.INTERRUPTED, "Warm shutdown"),
        (signal.SIGQUIT, None, "Cold shutdown"),
    ],
)
def test_signals_reach_the_worker(start_worker, redis_url, signum, code, says):
    alone = start_worker("-P", "solo", broker=redis_url)
    worker = start_worker("-P", "solo", broker=redis_url, through=SUBREAPER)
    for each in (alone, worker):
        each.signal(signum)
    assert worker.wait() == alone.wait()
    assert code is None or worker.exit_code == code
    assert says in worker.output


def test_hup_restarts_the_worker(start_worker, redis_url):
    worker = start_worker("-c", "1", broker=redis_url, through=SUBREAPER)
    before = [process.pid for process in psutil.Process(worker.pid).children()]
    worker.signal(signal.SIGHUP)
    worker.wait_ready(count=2)
    assert [process.pid for process in psutil.Process(worker.pid).children()] == before
    assert worker.stop() == exitcodes.OK


def test_a_worker_ends_with_the_process_that_reaps_for_it(start_worker, redis_url):
    worker = start_worker("-c", "1", broker=redis_url, through=SUBREAPER)
    below = worker.children()
    worker.kill()
    _, remaining = psutil.wait_procs(below, timeout=60)
    assert not remaining


def test_a_worker_that_is_killed_ends_the_process_that_reaps_for_it(start_worker, redis_url):
    worker = start_worker("-P", "solo", broker=redis_url, through=SUBREAPER)
    (child,) = psutil.Process(worker.pid).children()
    child.kill()
    assert worker.wait() == 128 + signal.SIGKILL


def test_a_worker_below_another_process_needs_no_reaper(start_worker, redis_url):
    worker = start_worker("-P", "solo", broker=redis_url)
    assert psutil.Process(worker.pid).children() == []
