"""gevent and eventlet: what green pools alone must do. What every pool must: `test_conformance.py`.

Patching is for ever, so nothing here happens in this process: the harness runs in a pytest of its own, and the rest in
real workers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import ledger, workers
from support.wait import wait_for

ROOT = Path(__file__).resolve().parents[2]
POOLS = ["gevent", "eventlet"]


@pytest.fixture(params=POOLS)
def pool(request):
    return request.param


def test_the_harness_in_a_patched_interpreter(pool, tmp_path):
    path = Path(__file__).parent / "green_harness.py"
    done = subprocess.run(
        [sys.executable, "-m", "support.green", pool, str(path), "-q", f"--basetemp={tmp_path / 'own'}"],
        cwd=ROOT,
        env=workers.environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.acceptance(53, 54)
def test_a_hundred_tasks_run_at_once(pool, broker_url, start_worker, client, ledger_path):
    app = client(broker_url)
    start_worker("-P", pool, "-c", "100", broker=broker_url, ledger=ledger_path)
    for number in range(100):
        app.tasks["proj.sleeptask"].apply_async((3, number), ignore_result=True)
    wait_for(lambda: ledger.size(ledger_path) >= 100, 20, lambda: str(ledger.lines(ledger_path)))
    # Side by side: every one of them has begun before the first has ended.
    assert all(line.startswith("start:") for line in ledger.lines(ledger_path)[:100])


@pytest.mark.acceptance(57)
@pytest.mark.parametrize("remote", ["redis", "amqp"])
def test_control_is_answered_while_every_greenlet_is_busy(
    pool, remote, request, start_worker, client, celery_client, ledger_path
):
    url = request.getfixturevalue(f"{remote}_url")
    worker = start_worker("-P", pool, "-c", "2", broker=url, ledger=ledger_path)
    for number in range(4):
        client(url).tasks["proj.sleeptask"].apply_async((60, number), ignore_result=True)
    wait_for(lambda: ledger.size(ledger_path) == 2, 30, "both slots to be busy")
    inspect = celery_client(url).control.inspect(timeout=10, limit=1)
    assert inspect.ping() == {worker.node: {"ok": "pong"}}
    assert inspect.stats()[worker.node]["pool"]["processes"] == [worker.pid]
    worker.stop(signal.SIGQUIT, timeout=10)


@pytest.mark.acceptance(105)
def test_limits_in_a_worker(pool, redis_url, start_worker, client):
    app = client(redis_url, redis_url)
    worker = start_worker("-P", pool, "-c", "2", "--time-limit", "0.3", broker=redis_url, backend=redis_url)
    result = app.tasks["proj.sleeptask"].delay(60)
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        result.get(timeout=20)
    assert app.tasks["proj.add"].delay(2, 3).get(timeout=20) == 5
    assert worker.running


@pytest.mark.parametrize("where", ["flag", "environment", "file"])
def test_the_library_is_patched_before_the_application_is_imported(pool, where, tmp_path, start_worker):
    (tmp_path / "tasks.py").write_text(
        "from socket import socket\n"
        "from framework import App\n"
        "app = App('tasks')\n"
        "@app.task\n"
        "def patched():\n"
        "    return socket.__module__\n"
    )
    chosen = f"[worker]\npool = {pool!r}\n" if where == "file" else ""
    url = f"sqlite:///{tmp_path}/broker.db"
    (tmp_path / "framework.toml").write_text(
        f"app = 'tasks'\n[broker]\nurl = {url!r}\n[result]\nbackend = {url!r}\n{chosen}"
    )
    flags = ["-P", pool] if where == "flag" else []
    env = {"FRAMEWORK_WORKER_POOL": pool} if where == "environment" else {}
    worker = start_worker(*flags, app="", app_dir=tmp_path, env=env | {"PYTHONWARNINGS": "default"})
    done = workers.run_command("call", "tasks.patched", "--wait", app_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pool in done.stdout, done.stdout
    assert "Warning" not in worker.output


STRANGER = """
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from framework_pools.{module} import {base}


class Stranger({base}):
    pass
"""
TASKS = """
from socket import socket
from time import sleep
from framework import App

app = App("tasks")


@app.task
def patched():
    sleep(0.01)
    return socket.__module__


@app.task
def late(library):
    with __import__(library).Timeout(0.01):
        sleep(60)
"""


def test_a_pool_of_another_distribution_is_patched_for(pool, tmp_path, start_worker, sqlite_url, client):
    """Core knows no pool by its name: whoever keeps the contract gets all that the built-in ones get."""
    site, place = tmp_path / "site", tmp_path / "place"
    (site / "acme_green-1.0.dist-info").mkdir(parents=True)
    (site / "acme_green-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-green\nVersion: 1.0\n"
    )
    (site / "acme_green-1.0.dist-info" / "entry_points.txt").write_text(
        "[framework.pools]\nstranger = acme_green:Stranger\n"
    )
    (site / "acme_green.py").write_text(STRANGER.format(module=pool, base=f"{pool.capitalize()}Pool"))
    place.mkdir()
    (place / "tasks.py").write_text(TASKS)
    env = {"PYTHONPATH": str(site), "FRAMEWORK_BROKER_URL": sqlite_url, "FRAMEWORK_RESULT_BACKEND": sqlite_url}
    worker = start_worker("-P", "stranger", "--health", "0", app="tasks", app_dir=place, env=env)
    app = client(sqlite_url, sqlite_url)
    assert pool in app.send_task("tasks.patched").get(timeout=30)
    failed = app.send_task("tasks.late", (pool,))
    failed.get(timeout=30, propagate=False)
    assert "Timeout" in f"{type(failed.result).__name__} {failed.result}"
    assert "which no task should raise" not in worker.output
    assert worker.stop() == 0


def test_the_parent_process_is_not_patched():
    assert "TEST_GREEN_POOL" not in os.environ
    monkey = sys.modules.get("gevent.monkey")
    assert monkey is None or not monkey.is_module_patched("socket")
