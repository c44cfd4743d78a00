"""The pool of processes: deaths, recycling, limits, restarts, and what is left behind (nothing)."""

from __future__ import annotations

import gc
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from framework.api.pool import INVALID, SUCCESS, TERMINATED, TIMED_OUT, WORKER_LOST
from framework.exceptions import ConfigError, FrameworkError
from framework.exitcodes import CONFIG, OK
from framework_pools.prefork import PreforkPool
from framework_pools.prefork import shared_memory as shared_memory
from support import ledger
from support.pool_harness import TESTS, Harness, both
from support.processes import alive
from support.wait import wait_for


def ready(pool: Harness, count: int = 2) -> list[int]:
    """Wait until `count` children take jobs; returns their pids."""
    wait_for(lambda: sum(slot.ready for slot in pool.pool._supervisor.slots.values()) == count, 30, f"{count} children")
    return pool.pids()


# ---------------------------------------------------------------- deaths


@both
@pytest.mark.parametrize(
    ("payload", "words"),
    [(b"die:9", "signal 9 (SIGKILL)"), (b"die:11", "signal 11 (SIGSEGV)"), (b"exit:7", "exitcode 7")],
)
def test_death_costs_only_the_job_that_ran(make, tmp_path, caplog, payload, words):
    pool = make()
    pool.run(*[b"noop"] * 40, task="short")
    seqs = pool.submit(
        *[b"note:%d" % n for n in range(30)], payload, *[b"note:%d" % n for n in range(30, 200)], task="short"
    )
    outcomes = pool.wait(seqs)
    lost = [outcome for outcome in outcomes if outcome.code != SUCCESS]
    assert [outcome.code for outcome in lost] == [WORKER_LOST]
    assert words in lost[0].note
    books = ledger.balance(range(200), tmp_path / "ledger")
    assert books.balanced, str(books)
    assert any(f"exited with '{words}'" in record.getMessage() for record in caplog.records)
    ready(pool)


@both
def test_killed_from_outside_while_running(make, tmp_path):
    pool = make()
    [seq] = pool.submit(b"note:here;sleep:30")
    pid = pool.wait_begun(seq)
    wait_for(lambda: ledger.size(tmp_path / "ledger") == 1, 30, "the job itself")
    short = pool.submit(*[b"noop"] * 20)
    pool.wait(short)
    os.kill(pid, signal.SIGKILL)
    assert pool.wait([seq])[0].code == WORKER_LOST
    assert pid not in ready(pool)


@both
def test_idle_child_killed_is_replaced(make):
    pool = make()
    before = ready(pool)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: before[0] not in pool.pids() and len(pool.pids()) == 2, 30, "a new child")
    assert pool.run(b"noop")[0].code == SUCCESS


@both
def test_fork_server_killed_is_replaced(make, tmp_path):
    pool = make()
    ready(pool)
    [seq] = pool.submit(b"note:here;sleep:30")
    wait_for(lambda: ledger.size(tmp_path / "ledger") == 1, 30, "the job itself")
    os.kill(pool.pool._supervisor._launcher.pid, signal.SIGKILL)
    assert pool.wait([seq])[0].code == WORKER_LOST
    assert pool.run(b"noop")[0].code == SUCCESS


def test_random_deaths_and_limits_keep_the_books(make, tmp_path):
    """Thousands of jobs, some killing their process, some over the limit: one end each, and no note twice."""
    pool = make()
    rng = random.Random(11)
    payloads, fates = [], []
    for n in range(2_000):
        kind = rng.random()
        fate = "die" if kind < 0.005 else "limit" if kind < 0.008 else "slow" if kind < 0.02 else "fine"
        tail = {"die": b";die:9", "limit": b";sleep:30", "slow": b";sleep:0.03", "fine": b""}[fate]
        payloads.append(b"note:%d" % n + tail)
        fates.append(fate)
    outcomes = pool.run(*payloads, hard=0.3, timeout=60)
    codes = {"die": WORKER_LOST, "limit": TIMED_OUT, "slow": SUCCESS, "fine": SUCCESS}
    assert [outcome.code for outcome in outcomes] == [codes[fate] for fate in fates]
    books = ledger.balance(range(2_000), tmp_path / "ledger")
    assert books.balanced, str(books)


@both
def test_children_that_cannot_start_are_not_respawned_in_a_rush(make, caplog):
    pool = make(1, {"fails_to_prepare": True})
    wait_for(
        lambda: sum("do not stay alive" in record.getMessage() for record in caplog.records) >= 2, 30, "the back-off"
    )
    assert pool.pool._supervisor._number < 10


@both
def test_a_child_that_is_slow_to_start_gets_more_time_than_the_one_before(make, tmp_path, caplog):
    gate = tmp_path / "gate"
    pool = make(1, {"set_up": str(gate)}, start_timeout=0.1)
    # Those that only seem to be slow, then those that hang.
    wait_for(lambda: "it seems to hang" in caplog.text, 60, "the longest wait")
    waits = re.findall(r"its set-up within ([\d.]+) s \(proc_alive_timeout\): killing it", caplog.text)
    assert waits[:3] == ["0.1", "0.2", "0.4"]
    assert "in do_await" in caplog.text or sys.platform != "linux"
    gate.touch()
    assert pool.run(b"noop", timeout=60)[0].code == SUCCESS


# ---------------------------------------------------------------- fairness


@both
def test_short_jobs_do_not_wait_for_a_long_one(make):
    pool = make()
    pool.run(*[b"noop"] * 100, task="short")
    [long] = pool.submit(b"sleep:3", task="long")
    short = pool.submit(*[b"noop"] * 100, task="short")
    pool.wait(short, 2.5)
    assert long not in pool.ended


@both
def test_jobs_behind_a_surprise_are_recalled(make, tmp_path):
    pool = make()
    pool.run(*[b"noop"] * 200, task="usual")
    mixed = [b"note:%d" % n for n in range(300)]
    mixed[20] = b"note:20;sleep:3"
    seqs = pool.submit(*mixed, task="usual")
    rest = seqs[:20] + seqs[21:]
    pool.wait(rest, 2.5)
    assert seqs[20] not in pool.ended
    pool.wait(seqs)
    books = ledger.balance(range(300), tmp_path / "ledger")
    assert books.balanced, str(books)


def test_a_stopped_child_does_not_hold_others_back(make):
    pool = make()
    pool.run(*[b"noop"] * 200, task="usual")
    pid = ready(pool)[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        seqs = pool.submit(*[b"noop"] * 300, task="usual")
        # All but the one that the stopped child was given first.
        wait_for(lambda: sum(seq in pool.ended for seq in seqs) >= 299, 5, "the others")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {outcome.code for outcome in pool.wait()} == {SUCCESS}


# ---------------------------------------------------------------- limits and termination


@both
@pytest.mark.acceptance(102, 103)
def test_hard_limit_replaces_the_process(make, caplog):
    pool = make(1)
    [before] = ready(pool, 1)
    [outcome] = pool.run(b"stubborn:30", task="t.stuck", hard=0.2)
    assert (outcome.code, outcome.note) == (TIMED_OUT, "0.2")
    [after] = ready(pool, 1)
    assert after != before
    assert any("Hard time limit (0.2s) exceeded for t.stuck[" in record.getMessage() for record in caplog.records)


@both
@pytest.mark.acceptance(104)
def test_soft_limit_interrupts_a_sleep(make, caplog):
    pool = make(1)
    [outcome] = pool.run(b"sleep:30", soft=0.2)
    assert "SoftTimeLimitExceeded" in outcome.note
    assert any("Soft time limit (0.2s) exceeded" in record.getMessage() for record in caplog.records)


def test_limits_are_measured_from_the_real_start(make):
    pool = make(1)
    pool.run(*[b"noop"] * 100, task="usual")
    outcomes = pool.run(*[b"sleep:0.25"] * 4, task="usual", hard=0.6)
    assert {outcome.code for outcome in outcomes} == {SUCCESS}


@both
def test_terminate_takes_the_tasks_own_processes_along(make, tmp_path):
    pool = make()
    note = tmp_path / "pid"
    [seq] = pool.submit(b"spawn:" + str(note).encode())
    wait_for(lambda: note.exists() and note.read_text(), 30, "the task's own process")
    process = psutil.Process(int(note.read_text()))
    assert pool.call(pool.pool.terminate, seq, signal.SIGTERM)
    assert pool.wait([seq])[0].code == TERMINATED
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 5, "its end")


@both
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
def test_terminate_ends_a_job_that_holds_the_interpreter(make, signum):
    pool = make(1)
    [seq] = pool.submit(b"seize")
    pool.wait_begun(seq)
    pool.terminate(seq, signum)
    assert pool.wait([seq])[0].code == TERMINATED
    assert pool.run(b"noop")[0].code == SUCCESS


@both
def test_a_job_that_handles_its_termination_may_clean_up(make, tmp_path):
    pool = make(1)
    gate = tmp_path / "gate"
    [seq] = pool.submit(b"catch:%s;note:cleaned" % bytes(gate))
    wait_for(lambda: ledger.size(tmp_path / "ledger") == 1, 30, "the handler to be in place")
    pool.terminate(seq)
    wait_for(lambda: ledger.size(tmp_path / "ledger") == 2, 30, "the handler to run")
    [slot] = pool.pool._supervisor.slots.values()
    wait_for(lambda: not slot.deaf, 30, "the child to answer")
    gate.touch()
    pool.wait([seq])
    assert ledger.lines(tmp_path / "ledger") == ["in", "caught", "cleaned"]


@both
def test_processes_of_a_job_end_by_the_usual_signals(make):
    pool = make(1)
    assert [outcome.note for outcome in pool.run(b"child_signal:fork", b"child_signal:exec")] == ["-15", "-15"]


@pytest.mark.acceptance(87)
def test_terminate_never_hits_a_neighbour(make, tmp_path):
    """Terminate jobs at random moments around their end: whatever is hit, no other job is."""
    pool = make()
    rng = random.Random(3)
    aimed = set()
    for _ in range(40):
        seqs = pool.submit(*[b"sleep:0.003"] * 8, task="usual")
        target = rng.choice(seqs)
        wait_for(lambda target=target: target in pool.begun or target in pool.ended, 5, "the target")
        time.sleep(rng.random() * 0.004)
        if pool.call(pool.pool.terminate, target, signal.SIGKILL):
            aimed.add(target)
        outcomes = pool.wait(seqs)
        hit = {outcome.seq for outcome in outcomes if outcome.code != SUCCESS}
        assert hit <= aimed
        assert all(pool.ended[seq].code == TERMINATED for seq in hit)


# ---------------------------------------------------------------- recycling


@both
@pytest.mark.acceptance(126, 128)
def test_child_is_replaced_after_exactly_n(make, tmp_path, caplog):
    pool = make(max_tasks_per_child=3)
    outcomes = pool.run(*[b"note:%d;pid" % n for n in range(60)], timeout=30)
    books = ledger.balance(range(60), tmp_path / "ledger")
    assert books.balanced, str(books)
    by_pid: dict[str, int] = {}
    for outcome in outcomes:
        by_pid[outcome.note] = by_pid.get(outcome.note, 0) + 1
    assert sorted(by_pid.values(), reverse=True)[:19] == [3] * 19
    assert max(by_pid.values()) == 3
    assert "exited with" not in caplog.text


@both
@pytest.mark.acceptance(129)
def test_child_that_grows_too_large_is_replaced(make, caplog):
    pool = make(1, max_memory_per_child=150_000)
    [before] = ready(pool, 1)
    outcomes = pool.run(b"grab:200", b"pid", b"pid")
    assert str(before) not in [outcome.note for outcome in outcomes]
    assert any("exceeding memory limit" in record.getMessage() for record in caplog.records)


@pytest.mark.acceptance(204)
def test_info_counts_what_children_did_that_are_gone(make):
    pool = make(2, max_tasks_per_child=3)
    pool.run(*[b"noop"] * 30)
    pool.run(b"die:9")
    writes = pool.call(pool.pool.info)["writes"]
    assert writes["total"] == sum(int(count) for count in writes["raw"].split(", ")) == 31
    assert len(writes["raw"].split(", ")) == 2


@both
def test_index_is_reused_and_number_is_not(make):
    pool = make(2, max_tasks_per_child=1)
    outcomes = pool.run(*[b"where"] * 12)
    names = [outcome.note.split() for outcome in outcomes]
    assert {name[1] for name in names} == {"1", "2"}
    assert len({name[0] for name in names}) == 12


# ---------------------------------------------------------------- start, stop, signals, leaks


@both
def test_failed_import_fails_the_start(start_method):
    recipe = {"path": [TESTS], "factory": "support.pool_workload:broken"}
    harness = Harness(PreforkPool, 1, recipe, start_method=start_method)
    harness.pool.prestart()
    with pytest.raises(ConfigError, match="missing_thing") as caught:
        harness.pool.start()
    assert caught.value.exit_code == CONFIG
    harness.loop.close()


def test_a_server_that_is_killed_as_it_loads_is_no_wrong_configuration():
    # Supervisors start no worker again that says so: the machine would be left without one.
    harness = Harness(PreforkPool, 1, {"path": [TESTS], "factory": "support.pool_workload:deadly"})
    harness.pool.prestart()
    with pytest.raises(FrameworkError, match=r"\(pid \d+\) was ended by SIGKILL while it loaded") as caught:
        harness.pool.start()
    assert caught.value.exit_code not in (OK, CONFIG)
    harness.loop.close()


def test_the_server_that_was_started_early_is_the_one_that_is_used(make):
    before = set(psutil.Process().children())
    PreforkPool.preload("fork", ("json",))
    (early,) = set(psutil.Process().children()) - before
    assert {outcome.code for outcome in make().run(b"noop")} == {SUCCESS}
    assert set(psutil.Process().children()) - before == {early}


def test_a_server_that_nobody_claims_ends_with_its_process():
    program = "from framework_pools.prefork import PreforkPool; import psutil; PreforkPool.preload('fork', ());" + (
        "print(psutil.Process().children()[0].pid)"
    )
    told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    wait_for(lambda: not alive(int(told.stdout)), 20, "the server's end")


def test_unknown_start_method_is_refused():
    with pytest.raises(ConfigError, match="frobnicate"):
        Harness(PreforkPool, 1, start_method="frobnicate")


@both
def test_payload_that_cannot_be_carried(make):
    pool = make()
    ready(pool)
    good = pool.submit(b"noop", b"noop")
    bad = pool.submit(object())  # type: ignore[arg-type]
    assert pool.wait(bad)[0].code == INVALID
    assert {outcome.code for outcome in pool.wait(good)} == {SUCCESS}


@both
@pytest.mark.acceptance(20)
def test_titles_name_the_worker(make):
    pool = make()
    for pid in ready(pool):
        wait_for(
            lambda pid=pid: "framework worker: test@here [child " in " ".join(psutil.Process(pid).cmdline()),
            5,
            "a title",
        )


@both
@pytest.mark.acceptance(33)
def test_signals_meant_for_the_worker_do_not_end_children(make):
    pool = make()
    [seq] = pool.submit(b"sleep:0.5")
    pid = pool.wait_begun(seq)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    assert pool.wait([seq])[0].code == SUCCESS
    assert pid in pool.pids()


@both
def test_nothing_is_left_after_ten_rounds(tmp_path, start_method):
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = None
    # The servers of other tests are children of this process too, and have children that come and go.
    others = {process.pid for process in psutil.Process().children()}
    for _ in range(10 if start_method == "fork" else 4):
        recipe = {"path": [TESTS], "ledger": str(tmp_path / "ledger")}
        with Harness(PreforkPool, 2, recipe, start_method=start_method) as pool:
            ready(pool)
            pool.run(*[b"noop"] * 10)
            wait_for(lambda pool=pool: len(pool.pids()) == 2, 30, "both children to come up")
            own = [each for each in psutil.Process().children() if each.pid not in others]
            tree = [*own, *(child for each in own for child in each.children(recursive=True))]
            assert len(tree) >= 3
        assert not [process for process in tree if process.is_running()]
        if before is None:
            before = descriptors()
    assert descriptors() <= before
    assert {process.pid for process in psutil.Process().children()} <= others


@both
@pytest.mark.acceptance(19)
def test_killed_worker_leaves_no_orphans(tmp_path, start_method):
    script = (
        "import sys, time\n"
        f"sys.path.insert(0, {TESTS!r})\n"
        "from framework_pools.prefork import PreforkPool\n"
        "from support.pool_harness import Harness\n"
        f"pool = Harness(PreforkPool, 2, {{'path': [{TESTS!r}]}}, start_method={start_method!r}).start()\n"
        "a, b = pool.submit(b'sleep:60', b'spin:60')\n"
        "pool.wait_begun(a), pool.wait_begun(b)\n"
        "print('running', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"running\n"
        tree = psutil.Process(worker.pid).children(recursive=True)
        assert len(tree) == 3
        worker.kill()
    wait_for(
        lambda: not [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE],
        2,
        "the whole tree to end",
    )


# ---------------------------------------------------------------- the shared page


def test_outbox_keeps_every_record_in_order():
    fd = shared_memory.create()
    child, worker = shared_memory.ChildMemory(fd), shared_memory.ChildMemory(fd)
    os.close(fd)
    rng = random.Random(5)
    put, taken = [], []
    for n in range(20_000):
        record = (n, 0, 0.5, b"x" * rng.choice([0, 1, 7, 100, 5_000]), "", "")
        if child.put(record) is None:
            put.append(record)
        if rng.random() < 0.1:
            taken += worker.take()
    taken += worker.take()
    assert taken == put
    assert len(put) > 10_000
    child.close()
    worker.close()


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.DEBUG)
