"""Tasks that misbehave: each has the outcome that it deserves, and the next task runs as if nothing had been."""

from __future__ import annotations

import signal

import pytest

from framework.exceptions import TaskError

POOLS = ["prefork", "threads", "solo"]
#: What each way to raise is known as afterwards.
RAISED = {
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "generator": "GeneratorExit",
    "recursive": "ValueError",
    "unpicklable": "ValueError",
    "surrogate": "ValueError",
    "unspeakable": "Unspeakable",
    # No `Exception`, and of a library that these pools know nothing of.
    "gevent": "Timeout",
}


@pytest.fixture(params=POOLS)
def rough(request, sqlite_url, start_worker, client, ledger_path):
    """A worker of each pool, and a client that sends to it."""
    return _start(request.param, sqlite_url, start_worker, client, ledger_path)


@pytest.fixture
def rough_prefork(sqlite_url, start_worker, client, ledger_path):
    return _start("prefork", sqlite_url, start_worker, client, ledger_path)


def _start(pool, url, start_worker, client, ledger_path):
    worker = start_worker("-P", pool, "-c", "1", app="support.rough", broker=url, backend=url, ledger=ledger_path)
    app = client(url, url)

    def end_of(name, *args):
        """Send a task and one after it; return the first one's end once both have ended."""
        result = app.send_task(f"rough.{name}", args)
        good = app.tasks["proj.add"].delay(2, 3)
        assert good.get(timeout=30) == 5
        result.get(timeout=15, propagate=False)
        assert worker.running
        assert "Defect" not in worker.output
        return result

    return worker, end_of


def test_whatever_a_task_raises_is_its_own_failure(rough):
    worker, end_of = rough
    before = [child.pid for child in worker.children()]
    for what, kind in RAISED.items():
        result = end_of("raises", what)
        assert result.state == "FAILURE", what
        assert kind in f"{type(result.result).__name__} {result.result}", what
    assert [child.pid for child in worker.children()] == before
    assert worker.stop() == 0


def test_an_exception_that_nobody_expects_ends_the_task_and_not_the_worker(rough):
    worker, end_of = rough
    result = end_of("raises", "stranger")
    assert result.state == "FAILURE"
    assert isinstance(result.result, TaskError)
    assert "Stranger" in str(result.result)
    assert worker.stop() == 0


def test_a_result_that_cannot_be_stored_is_a_failure(rough):
    worker, end_of = rough
    assert end_of("returns", "object").state == "FAILURE"
    assert end_of("returns", "surrogate").result == "\ud800"
    assert worker.stop() == 0


def test_a_task_may_print_megabytes_and_leave_a_thread_behind(rough):
    worker, end_of = rough
    assert end_of("prints", 3).result == 3
    assert end_of("leaves_a_thread").result == "left"
    assert worker.stop() == 0


def test_a_task_may_change_its_process(rough_prefork):
    worker, end_of = rough_prefork
    assert end_of("goes_away").result == "/"
    assert end_of("forks").result == 0
    assert end_of("closes_fds").result == "closed"
    assert worker.stop() == 0


@pytest.mark.parametrize("args", [["prefork"], ["prefork", "--pool-start-method", "spawn"], ["solo"]], ids=" ".join)
def test_soft_limits_hold_after_a_task_has_taken_their_signal(args, sqlite_url, start_worker, client, ledger_path):
    worker = start_worker(
        *("-c", "1", "-P", *args), app="support.rough", broker=sqlite_url, backend=sqlite_url, ledger=ledger_path
    )
    app = client(sqlite_url, sqlite_url)
    for _ in range(2):
        app.send_task("rough.takes_signals").get(timeout=60)
        late = app.tasks["proj.sleeptask"].apply_async((60,), soft_time_limit=0.3)
        late.get(timeout=30, propagate=False)
        assert type(late.result).__name__ == "SoftTimeLimitExceeded"
    assert len(worker.lines("with which the pool applies time limits")) == 1
    assert worker.stop() == 0


@pytest.mark.parametrize("how", ["exit", str(int(signal.SIGKILL)), str(int(signal.SIGSEGV))])
def test_a_task_that_ends_its_process_is_lost_alone(how, rough_prefork):
    worker, end_of = rough_prefork
    result = end_of("dies", how)
    assert result.state == "FAILURE"
    assert type(result.result).__name__ == "WorkerLostError"
    assert worker.stop() == 0
