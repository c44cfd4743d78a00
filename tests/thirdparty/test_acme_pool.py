"""A stranger's distribution, `docs/examples/acme-pool`: built, installed in a place of its own, tested, and run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import workers

SOURCE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "acme-pool"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The stranger's repository."""
    place = tmp_path_factory.mktemp("stranger") / "acme-pool"
    shutil.copytree(SOURCE, place, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    return place


@pytest.fixture(scope="module")
def site(project, tmp_path_factory):
    """A directory with the distribution installed in it; on `PYTHONPATH` it lies over this environment."""
    if importlib.util.find_spec("hatchling") is None:
        if os.environ.get("CI"):
            pytest.fail("hatchling is not installed: in CI the build backend must be there")
        pytest.skip("hatchling is not installed: pip install --group dev")
    place = tmp_path_factory.mktemp("site")
    # No network: what it needs is in this environment.
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*argv, "--target", place, project], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def path(site):
    """The environment variables of a process that has it installed."""
    return {"PYTHONPATH": os.pathsep.join([str(workers.APP_DIR.parent), str(site)])}


def test_it_passes_the_suite_with_its_one_line(project, path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs"],
        cwd=project,
        env=workers.environment(path),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [summary] = re.findall(r"^acme: (\d+) promises kept, 0 broken; not tested without the trait .*$", done.stdout, re.M)
    assert int(summary) >= 50
    # What was not tested is said, and why.
    assert "the pool 'acme' does not have the trait 'hard_limit'" in done.stdout


def test_it_is_listed_and_works(path):
    listed = workers.run_command("plugins", "--json", env=path)
    found = [info for info in json.loads(listed.stdout) if info["name"] == "acme"]
    assert [(info["family"], info["target"], info["distribution"], info["version"]) for info in found] == [
        ("pool", "acme_pool:AcmePool", "acme-pool", "1.0")
    ]
    checked = workers.run_command("plugins", "doctor", "--json", env=path)
    assert [report["state"] for report in json.loads(checked.stdout) if report["name"] == "acme"] == ["ok"]


def test_a_worker_runs_tasks_in_it(path, sqlite_url, start_worker, client, ledger_path):
    app = client(sqlite_url, sqlite_url)
    worker = start_worker("--pool=acme", "-c", "3", broker=sqlite_url, backend=sqlite_url, ledger=ledger_path, env=path)
    results = [app.tasks["proj.add"].delay(number, 1) for number in range(50)]
    assert [result.get(timeout=20) for result in results] == list(range(1, 51))
    stats = app.control.inspect(timeout=10, limit=1).stats()[worker.node]["pool"]
    assert (stats["implementation"], stats["max-concurrency"]) == ("acme_pool:AcmePool", 3)
    assert stats["writes"]["total"] == 50
    assert worker.stop() == 0


def test_its_options_are_in_the_config_file(path, tmp_path, sqlite_url, start_worker, client):
    (tmp_path / "tasks.py").write_text(
        "import threading\n"
        "from framework import App\n"
        "app = App('tasks')\n"
        "@app.task\n"
        "def name():\n"
        "    return threading.current_thread().name\n"
    )
    (tmp_path / "framework.toml").write_text(
        f"app = 'tasks'\n[broker]\nurl = {sqlite_url!r}\n[result]\nbackend = {sqlite_url!r}\n"
        f"[worker]\npool = 'acme'\n[pool.acme]\nthread_name = 'roadrunner'\n"
    )
    start_worker(app="", app_dir=tmp_path, env=path)
    done = workers.run_command("call", "tasks.name", "--wait", app_dir=tmp_path, env=path)
    assert "roadrunner" in done.stdout, done.stdout + done.stderr


def test_what_it_cannot_do_is_refused_at_the_start(path, sqlite_url, start_worker):
    worker = start_worker("--pool=acme", "--time-limit=5", broker=sqlite_url, env=path, ready=False)
    assert worker.wait() != 0
    assert "the pool 'acme' cannot enforce a hard time limit" in worker.output
