"""Starts that cannot work: one sentence that says what is wrong, the right exit code, no traceback."""

from __future__ import annotations

import socket

import kombu
import psutil
import pytest

from framework import exitcodes as codes
from support import workers
from support.processes import members
from support.wait import wait_for


def start(*args: str, app_dir=None, **env: str):
    return workers.run_command(*args, app_dir=app_dir, env=env, timeout=30)


def test_unknown_pool():
    done = start("-A", "proj", "worker", "--pool", "preforkk")
    assert done.returncode == codes.CONFIG
    assert "preforkk" in done.stderr
    assert "prefork" in done.stderr.replace("preforkk", "")
    assert "Traceback" not in done.stderr


def test_unknown_scheme():
    done = start("-A", "proj", "worker", TEST_BROKER_URL="rediss3://host/0")
    assert done.returncode == codes.CONFIG
    assert "rediss3" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_application(tmp_path):
    done = start("worker", app_dir=tmp_path)
    assert done.returncode == codes.CONFIG
    assert "-A" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_module(tmp_path):
    done = start("-A", "nosuchmodule", "worker", app_dir=tmp_path)
    assert done.returncode == codes.CONFIG
    assert "nosuchmodule" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named_with_file_line_and_guess(tmp_path):
    (tmp_path / "tasks.py").write_text("from framework import App\napp = App('x')\n")
    (tmp_path / "framework.toml").write_text('app = "tasks"\n\n[worker]\nconcurency = 2\n')
    done = start("worker", app_dir=tmp_path)
    assert done.returncode == codes.CONFIG
    for part in ("framework.toml", "4", "concurency", "concurrency"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_read(tmp_path):
    done = start("--config", str(tmp_path / "none.toml"), "worker", app_dir=tmp_path)
    assert done.returncode == codes.CONFIG
    assert "none.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_not_there_is_tried_again_and_the_worker_can_be_stopped(start_worker):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        url = f"redis://:hidden@127.0.0.1:{taken.getsockname()[1]}/0"
        worker = start_worker("-P", "solo", broker=url, ready=False)
        # Said at once, and again with the wait before the next attempt.
        worker.wait_line(r"(?i)(WARNING|ERROR).*127\.0\.0\.1", 20, count=2)
        assert "hidden" not in worker.output
        assert "Traceback" not in worker.output
        assert worker.running
        assert worker.stop(timeout=10) == 0


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_missing_extra_is_named(pool, tmp_path):
    # Before the application and everything else: as if the library had never been installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {pool!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    done = start("-A", "proj", "worker", "--pool", pool, PYTHONPATH=f"{tmp_path}:{workers.APP_DIR.parent}")
    assert done.returncode == codes.CONFIG
    assert f"pip install 'framework[{pool}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_green_pool_chosen_in_code_is_refused(pool, tmp_path):
    (tmp_path / "tasks.py").write_text(f"from framework import App\napp = App('x')\napp.conf.worker_pool = {pool!r}\n")
    done = start("-A", "tasks", "worker", app_dir=tmp_path)
    assert done.returncode == codes.CONFIG
    assert "too late to patch" in done.stderr
    assert "--pool" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_file_that_is_no_database(tmp_path):
    (tmp_path / "notes").write_text("my notes, which nobody may touch\n" * 500)
    done = start("-A", "proj", "worker", TEST_BROKER_URL=f"sqlite:///{tmp_path}/notes")
    assert done.returncode == codes.CONFIG
    assert "notes is not a SQLite database: name another file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_queue_that_exists_with_other_properties(amqp_url):
    with kombu.Connection(amqp_url) as connection:
        kombu.Queue("celery", queue_arguments={"x-max-length": 10}, channel=connection.default_channel).declare()
    done = start("-A", "proj", "worker", TEST_BROKER_URL=amqp_url)
    assert done.returncode == codes.CONFIG
    assert "queue 'celery' exists with other properties: x-max-length" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_password_is_in_no_command_line(pool, start_worker, redis_url):
    worker = start_worker(
        "-P", pool, "-c", "1", "-b", "redis://me:hunter2@127.0.0.1:1/0", f"result.backend={redis_url}", ready=False
    )
    worker.wait_line("Cannot connect")

    def lines():
        found = []
        for process in members(worker.pid):
            try:
                found.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        return found

    assert wait_for(lambda: lines() and not any("hunter2" in line for line in lines()), 60, lambda: str(lines()))
    assert any("redis://me:********@127.0.0.1:1/0" in line for line in lines())
    assert "hunter2" not in worker.output
