"""Workers that run as root: named in the log, and refused with pickle unless that is forced."""

from __future__ import annotations

import contextlib
import os
import pickle

import pytest

from framework import exitcodes
from framework._config.settings import Settings
from framework.exceptions import ConfigError
from framework.worker.process import privileges
from support import ledger, queues, workers
from support.wait import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a worker as root")

WARNING = "The worker runs as root, and so do its tasks"
CONFIGURED = """
from framework import App
app = App("tasks", broker={broker!r})
"""


def project(directory, broker, code="", toml=""):
    directory.chmod(0o755)
    (directory / "tasks.py").write_text(CONFIGURED.format(broker=broker) + code)
    (directory / "framework.toml").write_text(f'app = "tasks"\n{toml}')
    return directory


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "eventlet", "asyncio"])
def test_a_worker_that_runs_as_root_says_so(start_worker, redis_url, pool):
    if pool in ("gevent", "eventlet"):
        pytest.importorskip("gevent" if pool == "gevent" else "dns", reason=f"the extra {pool} is not installed")
    worker = start_worker("-P", pool, "-c", "1", broker=redis_url)
    assert len(worker.lines(WARNING)) == 1
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("code", "toml", "args", "env"),
    [
        ("", 'accept_content = ["json", "pickle"]\n', (), {}),
        ("", 'accept_content = ["application/x-python-serialize"]\n', (), {}),
        ("", '[result]\naccept_content = ["pickle"]\n', (), {}),
        ("", "", ("result.accept_content=pickle",), {}),
        ("", "", (), {"FRAMEWORK_ACCEPT_CONTENT": "json,pickle"}),
        ("app.conf.accept_content = ['pickle']\n", "", (), {}),
        ("app.conf.CELERY_ACCEPT_CONTENT = ['pickle', 'json']\n", "", ("-P", "solo"), {}),
        ("app.conf.accept_content = ['pickle']\n", "", ("--purge", "-D"), {}),
        ("app.conf.accept_content = ['pickle']\n", "", (), {"C_FORCE_ROOT": "false"}),
        ("app.conf.accept_content = ['pickle']\n", "[worker]\nforce_root = false\n", (), {}),
        # A serializer of the application's own that unpickles.
        ("from kombu.serialization import register\n"
         "register('own', str, str, 'application/x-python-serialize', 'binary')\n"
         "app.conf.accept_content = ['own']\n", "", (), {}),
    ],
)  # fmt: skip
def test_root_and_pickle_are_refused(tmp_path, redis_url, code, toml, args, env):
    queues.push(redis_url, b"kept", {"task": "tasks.none", "id": "kept"})
    done = workers.run_command("worker", *args, app_dir=project(tmp_path, redis_url, code, toml), env=env)
    assert done.returncode == exitcodes.CONFIG
    assert "has pickle and the worker runs as root" in done.stderr
    assert "force_root under [worker]" in done.stderr
    assert "Traceback" not in done.stderr
    assert queues.waiting(redis_url) == 1


@pytest.mark.parametrize(
    ("args", "conf", "env"),
    [
        ((), {"worker_force_root": True}, {}),
        (("worker.force_root=true",), {}, {}),
        ((), {}, {"FRAMEWORK_WORKER_FORCE_ROOT": "1"}),
        ((), {}, {"C_FORCE_ROOT": "1"}),
        ((), {}, {"C_FORCE_ROOT": "true"}),
    ],
)
def test_root_unpickles_where_it_is_forced(start_worker, redis_url, ledger_path, args, conf, env):
    worker = start_worker("-P", "solo", *args, broker=redis_url, ledger=ledger_path, env=env,
                          conf={"accept_content": ["json", "pickle"], **conf})  # fmt: skip
    assert len(worker.lines(WARNING)) == 1
    body = pickle.dumps((["pickled"], {}, {}))
    queues.push(redis_url, body, {"task": "proj.record", "id": "p"}, content_type="application/x-python-serialize",
                content_encoding="binary")  # fmt: skip
    wait_for(lambda: ledger.lines(ledger_path) == ["pickled"], 30, lambda: worker.output)
    assert worker.stop() == 0


@pytest.mark.parametrize(("uid", "euid", "root"), [(0, 0, True), (0, 1000, True), (1000, 0, True), (1000, 1000, False)])
def test_who_is_root(monkeypatch, uid, euid, root):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    settings = Settings(accept_content=["pickle"])
    with pytest.raises(ConfigError, match="run the worker as another user") if root else contextlib.nullcontext():
        privileges.refuse_pickle_as_root(settings)
    privileges.refuse_pickle_as_root(Settings(accept_content=["json", "yaml", "msgpack"]))
