"""Signals that do not stop a worker for good (acceptance 22-26, 30-32), the soft phase, and REMAP_SIGTERM."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap

import psutil
import pytest

from support import ledger, workers
from support.processes import members
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]


def wait_started(path, entry):
    wait_for(lambda: ledger.read(path)[f"start:{entry}"] == 1, 20, lambda: str(ledger.lines(path)))


# ---------------------------------------------------------------- HUP


@pytest.mark.acceptance(22)
@pytest.mark.parametrize("pool", POOLS)
def test_hup_restarts_with_the_same_arguments(pool, redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker(
        "-P", pool, "-c", "1", "-n", "w@here", broker=redis_url, backend=redis_url, ledger=ledger_path
    )
    command = psutil.Process(worker.pid).environ(), psutil.Process(worker.pid).cwd()
    result = app.tasks["proj.sleeptask"].delay(0.5, "x")
    wait_started(ledger_path, "x")
    worker.signal(signal.SIGHUP)
    worker.wait_line("Restarting framework worker")
    worker.wait_ready(count=2)
    assert result.get(timeout=30) == 0.5, "what ran has ended first"
    assert worker.running
    assert (psutil.Process(worker.pid).environ(), psutil.Process(worker.pid).cwd()) == command
    title = " ".join(psutil.Process(worker.pid).cmdline()).rstrip()
    assert title == f"framework worker: w@here [main] {' '.join(worker.argv[-11:])}"
    assert app.tasks["proj.add"].delay(1, 1).get(timeout=30) == 2
    assert worker.stop() == 0
    assert not members(worker.pid)


@pytest.mark.acceptance(23)
@pytest.mark.parametrize("launch", [["-m", "framework"], ["script"]], ids=["module", "script"])
def test_hup_works_however_the_program_was_launched(launch, redis_url, client, tmp_path):
    if launch == ["script"]:
        launch = [os.path.join(os.path.dirname(sys.executable), "framework")]
    argv = [sys.executable, *launch, "-A", "proj", "worker", "-P", "solo", "-l", "info"]
    worker = workers._start(argv, None, workers.app_environment(broker=redis_url), tmp_path / "log")
    with worker:
        worker.wait_ready()
        worker.signal(signal.SIGHUP)
        worker.wait_ready(count=2)
        assert client(redis_url).control.ping(timeout=10)


@pytest.mark.acceptance(24)
def test_hup_loads_new_code(redis_url, start_worker, client, tmp_path):
    module = tmp_path / "changing.py"
    source = textwrap.dedent(
        """
        from framework import App
        app = App("changing", broker={url!r}, backend={url!r})
        @app.task(name="changing.version")
        def version():
            return {version}
        """
    )
    module.write_text(source.format(url=redis_url, version=1))
    worker = start_worker("-c", "1", app="changing", app_dir=tmp_path)
    app = client(redis_url, redis_url)
    assert app.send_task("changing.version").get(timeout=30) == 1
    module.write_text(source.format(url=redis_url, version=22))
    worker.signal(signal.SIGHUP)
    worker.wait_ready(count=2)
    assert app.send_task("changing.version").get(timeout=30) == 22


@pytest.mark.acceptance(25)
def test_with_a_terminal_hup_stops(redis_url):
    master, slave = pty.openpty()
    env = workers.environment(workers.app_environment(broker=redis_url))
    argv = [sys.executable, "-m", "framework", "-A", "proj", "worker", "-P", "solo", "-l", "info"]
    process = subprocess.Popen(argv, cwd=workers.APP_DIR, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""

    def read() -> bytes:
        nonlocal seen
        with contextlib.suppress(OSError):  # the other end is closed
            seen += os.read(master, 65536)
        return seen

    try:
        wait_for(lambda: b" ready." in read(), 20, "the worker to be ready")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: read() and process.poll() is not None, 20, "the worker to end")
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert process.returncode == 0
    assert seen.count(b" ready.") == 1
    assert b"Restarting" not in seen


@pytest.mark.acceptance(26)
def test_where_hup_is_not_supported_it_says_so(monkeypatch, caplog):
    from types import SimpleNamespace

    from framework.worker.process.stopping import Stopper

    monkeypatch.setattr(sys, "platform", "darwin")
    settings = SimpleNamespace(
        stop_timeout=None, settle_timeout=10, soft_shutdown_timeout=0, enable_soft_shutdown_on_idle=False
    )
    stopper = Stopper(None, None, None, None, lambda *_: None, lambda *_: None, settings)
    stopper.handle(signal.SIGHUP)
    assert "HUP is not supported" in caplog.text
    assert not stopper.restarts


def test_an_end_asked_for_after_hup_is_an_end(redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker("-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path)
    result = app.tasks["proj.sleeptask"].delay(1, "x")
    wait_started(ledger_path, "x")
    worker.signal(signal.SIGHUP)
    worker.wait_line("Restarting")
    assert worker.stop() == 0
    assert result.get(timeout=30) == 1
    assert len(worker.lines("ready")) == 1


# ---------------------------------------------------------------- USR1, USR2


@pytest.mark.acceptance(30, 31)
@pytest.mark.parametrize("pool", POOLS)
def test_usr1_shows_what_everybody_does(pool, redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker("-P", pool, "-c", "2", broker=redis_url, backend=redis_url, ledger=ledger_path)
    name = "proj.asleep" if pool == "asyncio" else "proj.sleeptask"
    result = app.tasks[name].delay(1, "x") if pool != "asyncio" else app.tasks["proj.asleep"].delay(1)
    if pool != "asyncio":
        wait_started(ledger_path, "x")
    else:
        wait_for(lambda: app.control.inspect(timeout=10).active()[worker.node], 30, "the task to run")
    worker.signal(signal.SIGUSR1)
    worker.wait_line(r"^ END$")
    text = worker.output
    assert "MainThread\n" + "=" * 49 in text
    assert "framework-loop\n" + "=" * 49 in text or pool in ("gevent", "eventlet")
    assert "LOCAL VARIABLES" in text
    if pool != "prefork":  # whose tasks run in other processes
        assert re.search(r"in a?sleep(task)?$", text, re.MULTILINE)
    result.get(timeout=30)
    assert app.control.ping(timeout=10)
    assert worker.stop() == 0


@pytest.mark.acceptance(32)
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_usr2_opens_the_debugger_where_that_is_enabled(pool, redis_url, start_worker, client):
    worker = start_worker("-P", pool, "-c", "1", broker=redis_url, env={"FRAMEWORK_RDBSIG": "1"})
    worker.signal(signal.SIGUSR2)
    port = int(worker.wait_line(r"Remote Debugger:(\d+): Ready to connect: telnet 127.0.0.1 \1")[1])
    worker.wait_line("Waiting for client")
    with socket.create_connection(("127.0.0.1", port), 10) as session:
        session.settimeout(10)
        talk = session.makefile("rw")
        talk.write("p 6 * 7\n")
        talk.flush()
        wait_for(lambda: "42" in talk.readline(), 30, "an answer of the debugger")
        talk.write("exit\n")
        talk.flush()
        while talk.readline():
            pass
    assert client(redis_url).control.ping(timeout=10)
    assert worker.stop() == 0


@pytest.mark.acceptance(32)
def test_usr2_does_nothing_where_it_is_not(redis_url, start_worker, client):
    worker = start_worker("-P", "solo", broker=redis_url)
    worker.signal(signal.SIGUSR2)
    assert client(redis_url).control.ping(timeout=10)
    assert worker.stop() == 0
    assert "Remote Debugger" not in worker.output


@pytest.mark.acceptance(32)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_can_set_a_trace(pool, redis_url, start_worker, client, tmp_path):
    (tmp_path / "traced.py").write_text(
        textwrap.dedent(
            f"""
            from framework import App
            from framework.contrib import rdb
            app = App("traced", broker={redis_url!r}, backend={redis_url!r})
            @app.task(name="traced.stop")
            def stop():
                answer = 41
                rdb.set_trace()
                return answer + 1
            """
        )
    )
    worker = start_worker("-P", pool, "-c", "1", app="traced", app_dir=tmp_path)
    app = client(redis_url, redis_url)
    result = app.send_task("traced.stop")
    port = int(worker.wait_line(r"Remote Debugger:(\d+)")[1])
    worker.wait_line("Waiting for client")
    with socket.create_connection(("127.0.0.1", port), 10) as session:
        session.settimeout(10)
        talk = session.makefile("rw")
        talk.write("p answer\ncontinue\n")
        talk.flush()
        heard = talk.read()
    assert "41" in heard
    assert result.get(timeout=30) == 42


# ---------------------------------------------------------------- phases


def test_the_soft_phase_ends_with_the_last_task(redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    conf = {"worker_soft_shutdown_timeout": 300}
    worker = start_worker("-c", "1", broker=redis_url, backend=redis_url, ledger=ledger_path, conf=conf)
    result = app.tasks["proj.sleeptask"].delay(0.5, "x")
    wait_started(ledger_path, "x")
    assert worker.stop(signal.SIGQUIT) == 0
    assert "Initiating Soft Shutdown, terminating in 300 seconds" in worker.output
    assert result.get(timeout=30) == 0.5


def test_a_signal_in_the_soft_phase_ends_it(redis_url, start_worker, client, ledger_path):
    app = client(redis_url)
    conf = {"worker_soft_shutdown_timeout": 300}
    worker = start_worker("-c", "1", broker=redis_url, ledger=ledger_path, conf=conf)
    app.tasks["proj.sleeptask"].apply_async((60, "x"), ignore_result=True)
    wait_started(ledger_path, "x")
    worker.signal(signal.SIGQUIT)
    worker.wait_line("Initiating Soft Shutdown")
    assert worker.stop(signal.SIGQUIT) == 0
    assert "Cold shutdown (MainProcess)" in worker.output


def test_remap_sigterm(redis_url, start_worker, client, ledger_path):
    app = client(redis_url)
    worker = start_worker("-c", "1", broker=redis_url, ledger=ledger_path, env={"REMAP_SIGTERM": "SIGQUIT"})
    app.tasks["proj.sleeptask"].apply_async((60, "x"), ignore_result=True)
    wait_started(ledger_path, "x")
    assert worker.stop() == 0
    assert "Cold shutdown (MainProcess)" in worker.output


@pytest.mark.acceptance(20)
@pytest.mark.parametrize("args", [["prefork"], ["prefork", "--pool-start-method", "spawn"], ["threads"]], ids=" ".join)
def test_ps_and_kill_as_the_guide_has_it_end_the_whole_worker(args, sqlite_url, start_worker):
    node = f"ps{os.getpid()}@here"
    worker = start_worker("-c", "2", "-n", node, "-P", *args, broker=sqlite_url, backend=sqlite_url)
    # Not 'framework worker' alone, which are all the workers of this machine.
    line = f"ps auxww | grep 'framework worker: {node}' | grep -v grep | awk '{{print $2}}'"

    def found():
        printed = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
        return set(map(int, printed.split()))

    # A process that has just been started has its name in a moment.
    wait_for(lambda: found() == {process.pid for process in members(worker.pid)}, 30, "the names of all processes")
    subprocess.run(["sh", "-c", f"{line} | xargs kill -9"], check=True)
    worker.wait()
    wait_for(lambda: not members(worker.pid), 30, "the end of all processes")
