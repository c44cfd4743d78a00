"""Children of the pool of processes that are stopped or stuck: they are named, and nobody waits for them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import psutil
import pytest

from framework.api.pool import SUCCESS, TERMINATED, TIMED_OUT
from framework_pools.prefork import stacks
from support import ledger
from support.pool_harness import Harness, both
from support.wait import wait_for


@pytest.fixture
def stop():
    """Stop processes; they go on when the test is over."""
    stopped = []

    def stop(pid):
        stopped.append(psutil.Process(pid))
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: stacks.is_stopped(pid), 20, "the process to stop")

    yield stop
    for process in stopped:
        if process.is_running():
            process.resume()


def ready(pool: Harness, count: int = 2) -> list[int]:
    """Wait until `count` children take jobs; returns their pids."""
    wait_for(lambda: sum(slot.ready for slot in pool.pool._supervisor.slots.values()) == count, 30, f"{count} children")
    return pool.pids()


def line(caplog: pytest.LogCaptureFixture, *words: object) -> str:
    """Wait for the one message that has all `words` in it."""

    def found() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        return [message for message in messages if all(str(word) in message for word in words)]

    wait_for(found, 30, lambda: f"a line with {words}; there are {found()} and\n{caplog.text}")
    [message] = found()
    return message


# ---------------------------------------------------------------- stopped


@both
def test_what_an_idle_stopped_child_is_given_runs_elsewhere(make, stop, caplog):
    pool = make()
    first, second = ready(pool)
    stop(first)
    outcomes = pool.run(*[b"pid"] * 2, timeout=10)
    assert [outcome.note for outcome in outcomes] == [str(second)] * 2
    assert "with no task" in line(caplog, f"pid:{first}", "is stopped")
    assert pool.call(pool.pool.info)["stopped-processes"] == [first]
    # It has been noticed: nobody waits for it any more.
    outcomes = pool.run(*[b"pid"] * 300, timeout=10)
    assert {outcome.note for outcome in outcomes} == {str(second)}


def test_a_child_that_goes_on_takes_jobs_again(make, stop, caplog):
    pool = make()
    first, _second = ready(pool)
    stop(first)
    pool.run(*[b"noop"] * 4)
    line(caplog, f"pid:{first}", "is stopped")
    os.kill(first, signal.SIGCONT)
    line(caplog, f"pid:{first}", "no longer stopped")
    outcomes = pool.run(*[b"sleep:0.2;pid"] * 4)
    assert str(first) in {outcome.note for outcome in outcomes}


def test_all_children_stopped_and_continued(make, stop, caplog):
    pool = make()
    pids = ready(pool)
    for pid in pids:
        stop(pid)
    seqs = pool.submit(*[b"noop"] * 20)
    for pid in pids:
        line(caplog, f"pid:{pid}", "is stopped")
    assert not pool.ended
    os.kill(pids[1], signal.SIGCONT)
    assert {outcome.code for outcome in pool.wait(seqs)} == {SUCCESS}


def test_a_child_stopped_in_a_job_is_named_with_it_and_the_others_go_on(make, stop, caplog):
    pool = make()
    pool.run(*[b"noop"] * 100, task="short")
    [seq] = pool.submit(b"sleep:0.5", task="t.long")
    pid = pool.wait_begun(seq)
    wait_for(
        lambda: pool.pool._supervisor.slots and any(slot.running() for slot in pool.pool._supervisor.slots.values()),
        5,
        "it",
    )
    stop(pid)
    assert "in t.long[" in line(caplog, f"pid:{pid}", "is stopped")
    shorts = pool.submit(*[b"noop"] * 300, task="short")
    pool.wait(shorts, 5)
    assert seq not in pool.ended
    os.kill(pid, signal.SIGCONT)
    assert pool.wait([seq])[0].code == SUCCESS
    assert pid in pool.pids()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_in_a_stopped_child_can_be_terminated(make, stop, signum):
    pool = make()
    [seq] = pool.submit(b"sleep:30")
    pid = pool.wait_begun(seq)
    wait_for(lambda: any(slot.running() for slot in pool.pool._supervisor.slots.values()), 5, "it")
    stop(pid)
    assert pool.call(pool.pool.terminate, seq, signum)
    assert pool.wait([seq], 5)[0].code == TERMINATED
    assert pid not in ready(pool)


@both
def test_the_hard_limit_reaches_a_stopped_child(make, stop):
    pool = make()
    [seq] = pool.submit(b"sleep:30", hard=0.5)
    pid = pool.wait_begun(seq)
    wait_for(lambda: any(slot.running() for slot in pool.pool._supervisor.slots.values()), 5, "it")
    stop(pid)
    assert pool.wait([seq], 5)[0].code == TIMED_OUT
    assert pid not in ready(pool)


@both
def test_a_restart_replaces_an_idle_stopped_child(make, stop, caplog):
    pool = make()
    first, second = ready(pool)
    stop(first)
    pool.call(pool.pool.restart)
    wait_for(lambda: not {first, second} & set(ready(pool)), 30, "two other children")
    assert "cannot exit while" in line(caplog, f"pid:{first}", "killing it")


def test_stop_ends_a_stopped_child(make, stop):
    pool = make()
    first, _second = ready(pool)
    stop(first)
    pool.stop(timeout=1)
    assert not psutil.pid_exists(first)


# ---------------------------------------------------------------- stuck


@both
@pytest.mark.parametrize(
    ("payload", "place"), [(b"sleep:30", "in do_sleep"), (b"seize", "in do_seize"), (b"stubborn:30", "in do_stubborn")]
)
def test_a_long_job_is_named_once_with_its_stack(make, caplog, payload, place):
    pool = make(stuck_after=0.3)
    [seq] = pool.submit(payload, task="t.long")
    pid = pool.wait_begun(seq)
    message = line(caplog, f"pid:{pid}", "has been in t.long[")
    assert place in message
    assert "prefork/child.py" not in message
    # The others do not wait, and their jobs are not long.
    assert {outcome.code for outcome in pool.run(*[b"sleep:0.01"] * 50, task="short")} == {SUCCESS}
    assert seq not in pool.ended
    pool.call(pool.pool.terminate, seq, signal.SIGKILL)
    pool.wait([seq])
    line(caplog, "has been in")


def test_a_stack_is_not_asked_for_when_the_option_is_off(make, caplog):
    pool = make(stuck_after=0)
    pool.run(b"sleep:1")
    assert "has been in" not in caplog.text


def test_the_hard_limit_says_where_the_job_was(make, caplog):
    pool = make()
    [outcome] = pool.run(b"seize", task="t.stuck", hard=0.3)
    assert outcome.code == TIMED_OUT
    assert "in do_seize" in line(caplog, "hard time limit:")


def test_a_child_that_is_deaf_is_replaced_and_its_jobs_run_elsewhere(make, tmp_path, caplog):
    pool = make(start_timeout=2.0)
    ready(pool)
    [outcome] = pool.run(b"haunt;pid")
    haunted = int(outcome.note)
    wait_for(lambda: ledger.size(tmp_path / "ledger") == 1, 30, "the child to be haunted")
    outcomes = pool.run(*[b"sleep:0.01;pid"] * 200, task="usual")
    assert {outcome.code for outcome in outcomes} == {SUCCESS}
    message = line(caplog, f"pid:{haunted}", "has not begun its jobs")
    assert "in do_seize" in message
    wait_for(lambda: haunted not in ready(pool), 30, "another child")


def test_stacks_do_not_pile_up(make, caplog):
    pool = make(1, stuck_after=0.05)
    for number in range(5):
        pool.run(b"sleep:0.6", task=f"t.{number}")
        message = line(caplog, f"in t.{number}[")
        assert message.count("in do_sleep") == 1


# ---------------------------------------------------------------- what is passed on to tasks


@both
def test_a_tasks_own_processes_do_not_inherit_the_pools_descriptors(make):
    pool = make(1)
    [outcome] = pool.run(b"descriptors")
    assert outcome.code == SUCCESS
    script = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))"
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, close_fds=True)
    assert len(outcome.note.split(",")) <= len(plain.stdout.split(","))


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.DEBUG)
