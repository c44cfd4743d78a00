"""Signals that come when nobody expects them: while the program begins, ends, or is replaced by HUP."""

from __future__ import annotations

import contextlib
import signal
import textwrap

import pytest

from framework.worker.process.signals import Signals
from support.wait import wait_for


def bombard(worker, signums, until):
    """Send the worker `signums` over and over, until `until()`."""

    def done():
        with contextlib.suppress(ProcessLookupError):
            for signum in signums:
                if worker.running:
                    worker.signal(signum)
        return until()

    wait_for(done, 60, lambda: worker.output[-3000:])


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
def test_the_exit_code_is_certain_whatever_comes_at_the_end(signum, pool, sqlite_url, start_worker):
    worker = start_worker("-P", pool, "-c", "1", broker=sqlite_url)
    bombard(worker, [signum, signal.SIGHUP, signal.SIGUSR2], lambda: not worker.running)
    assert worker.wait() == 0


def test_ctrl_c_again_and_again_exits_with_1(sqlite_url, start_worker):
    worker = start_worker("-P", "threads", broker=sqlite_url)
    bombard(worker, [signal.SIGINT], lambda: not worker.running)
    assert worker.wait() == 1


@pytest.mark.parametrize("pool", ["prefork", "eventlet"])
def test_the_program_that_hup_starts_survives_what_comes_while_it_begins(pool, sqlite_url, start_worker):
    worker = start_worker("-P", pool, "-c", "1", broker=sqlite_url)
    worker.signal(signal.SIGHUP)
    worker.wait_line("Restarting framework worker")
    bombard(
        worker, [signal.SIGUSR1, signal.SIGUSR2], lambda: not worker.running or len(worker.lines(r" ready\.$")) == 2
    )
    assert worker.running, worker.output
    assert worker.stop() == 0


def test_hup_while_the_application_is_imported_restarts_when_it_has_begun(redis_url, start_worker, tmp_path):
    (tmp_path / "slow.py").write_text(
        textwrap.dedent(
            f"""
            import os, pathlib, time
            from framework import App
            here = pathlib.Path({str(tmp_path)!r})
            app = App("slow", broker={redis_url!r})
            (here / "begun").touch()
            while not (here / "go").exists():
                time.sleep(0.01)
            """
        )
    )
    worker = start_worker("-P", "solo", app="slow", app_dir=tmp_path, ready=False)
    wait_for((tmp_path / "begun").exists, 30, lambda: worker.output)
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        worker.signal(signum)
    (tmp_path / "go").touch()
    worker.wait_line("Restarting framework worker", 30)
    wait_for(lambda: worker.output.rfind(" ready.") > worker.output.rfind("Restarting"), 30, lambda: worker.output)
    assert worker.stop() == 0


def test_ctrl_c_ends_a_program_whose_application_swallows_it(start_worker, tmp_path):
    (tmp_path / "deaf.py").write_text(
        textwrap.dedent(
            f"""
            import pathlib, time
            while True:
                try:
                    pathlib.Path({str(tmp_path)!r}, "begun").touch()
                    time.sleep(0.01)
                except BaseException:
                    pass
            """
        )
    )
    worker = start_worker("-P", "gevent", app="deaf", app_dir=tmp_path, ready=False)
    wait_for((tmp_path / "begun").exists, 30, lambda: worker.output)
    worker.signal(signal.SIGINT)
    assert worker.wait(30) == -signal.SIGINT


def test_an_application_that_does_not_end_is_ended_by_another_signal(sqlite_url, start_worker, tmp_path):
    (tmp_path / "lasting.py").write_text(
        textwrap.dedent(
            f"""
            import threading, time
            from framework import App
            app = App("lasting", broker={sqlite_url!r})
            main = threading.main_thread()
            def last():
                main.join()
                print("lasting", flush=True)
                while True:
                    time.sleep(0.05)
            threading.Thread(target=last).start()
            """
        )
    )
    worker = start_worker("-P", "solo", app="lasting", app_dir=tmp_path)
    worker.signal(signal.SIGTERM)
    worker.wait_line("lasting$", 30)
    assert worker.running
    assert worker.stop() == 0


def test_looking_into_a_worker_does_it_no_harm(caplog):
    signals = Signals()
    calls = []

    def look(frame):
        calls.append(frame)
        # The same signal once more, before this one is done with.
        signals._on_debug_signal(signal.SIGUSR1, None)
        raise RuntimeError("as it happens")

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]
    signals.hold()
    signals.install(lambda number: None, {signal.SIGUSR1: look})
    try:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signals.restore()
    assert len(calls) == 2
    assert caplog.text.count("The handler of SIGUSR1 failed") == 2
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)] == before
