"""Starting and naming workers, and what they print (acceptance A), and concurrency (D)."""

from __future__ import annotations

import os
import re
import socket

import psutil
import pytest
from celery.exceptions import DuplicateNodenameWarning

from support import ledger, workers
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]

#: Every option of `framework worker` that users of the guide know.
WORKER_OPTIONS = [
    "--app",
    "--broker",
    "--result-backend",
    "--workdir",
    "--config",
    "--no-color",
    "--quiet",
    "--hostname",
    "--detach",
    "--statedb",
    "--loglevel",
    "--prefetch-multiplier",
    "--disable-prefetch",
    "--concurrency",
    "--pool",
    "--task-events",
    "--time-limit",
    "--soft-time-limit",
    "--max-tasks-per-child",
    "--max-memory-per-child",
    "--pool-start-method",
    "--purge",
    "--queues",
    "--exclude-queues",
    "--include",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
    "--heartbeat-interval",
    "--autoscale",
    "--beat",
    "--schedule",
    "--scheduler",
    "--logfile",
    "--pidfile",
    "--uid",
    "--gid",
    "--umask",
    "--executable",
]


@pytest.fixture(params=["redis", "amqp"])
def remote_url(request):
    """Each broker that Celery's own remote control can reach."""
    return request.getfixturevalue(f"{request.param}_url")


def inspect(celery_client, url, replies=1):
    """Return `app.control.inspect` of a real Celery client that waits for so many replies."""
    return celery_client(url).control.inspect(timeout=10, limit=replies)


# ---------------------------------------------------------------- A: starting, naming


@pytest.mark.acceptance(1)
@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_shows_its_banner_gets_ready_and_stays_in_the_foreground(pool, broker_url, start_worker):
    worker = start_worker("-P", pool, "-c", "2", broker=broker_url)
    output = worker.output
    for part in ("[config]", ".> app:", "proj", ".> transport:", ".> results:", f"({pool})", "[queues]", "[tasks]"):
        assert part in output
    assert re.search(r"\.> celery +exchange=celery\(direct\) key=celery", output)
    assert "  . proj.add" in output
    assert "guest:guest" not in output
    assert worker.running
    assert worker.stop() == 0


@pytest.mark.acceptance(2)
@pytest.mark.parametrize(("app", "args"), [("proj", ()), ("", ("-A", "proj")), ("", ("--app=proj",)), ("proj:app", ())])
def test_the_application_may_be_named_before_and_after_the_command(app, args, redis_url, start_worker):
    worker = start_worker("-P", "solo", *args, app=app, broker=redis_url)
    assert "  . proj.add" in worker.output


@pytest.mark.acceptance(3)
def test_help_lists_every_option():
    done = workers.run_command("worker", "--help")
    assert done.returncode == 0, done.stderr
    missing = [option for option in WORKER_OPTIONS if not re.search(rf"{option}\b", done.stdout)]
    assert missing == []


@pytest.mark.acceptance(4)
@pytest.mark.parametrize("level", ["INFO", "info", "Info"])
def test_the_log_level_is_written_in_any_case(level, redis_url, start_worker):
    worker = start_worker("-P", "solo", f"--loglevel={level}", broker=redis_url)
    assert worker.lines(r"INFO.* ready\.")


@pytest.mark.acceptance(6, 60)
def test_workers_of_one_machine_have_names_of_their_own(remote_url, start_worker, celery_client):
    for number, pool in enumerate(("prefork", "threads", "gevent"), 1):
        start_worker("-P", pool, "-c", "1", "-n", f"worker{number}", broker=remote_url)
    host = socket.gethostname()
    pongs = inspect(celery_client, remote_url, 3).ping()
    assert pongs == {f"celery@worker{number}": {"ok": "pong"} for number in (1, 2, 3)} or pongs == {
        f"worker{number}@{host}": {"ok": "pong"} for number in (1, 2, 3)
    }


@pytest.mark.acceptance(7, 8, 9)
@pytest.mark.parametrize("variable", ["%h", "%n", "%d"])
def test_host_name_variables_in_the_node_name(variable, redis_url, start_worker):
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    wanted = {"%h": host, "%n": short, "%d": domain}[variable]
    worker = start_worker("-P", "solo", "-n", f"worker1.{variable}", broker=redis_url, ready=False)
    assert worker.wait_line(r"(\S+)@(\S*) ready\.", 30)[2] == f"worker1.{wanted}"


@pytest.mark.acceptance(12)
def test_a_second_worker_of_the_same_name_is_warned_about(amqp_url, start_worker):
    first = start_worker("-P", "solo", "-n", "twin@here", broker=amqp_url)
    second = start_worker("-P", "solo", "-n", "twin@here", broker=amqp_url)
    wait_for(
        lambda: any(worker.lines(r"(?i)WARNING.*twin@here") for worker in (first, second)),
        10,
        lambda: f"a warning in:\n{first.output}\n{second.output}",
    )


@pytest.mark.acceptance(12)
def test_two_workers_of_one_name_are_noticed_by_the_client(redis_url, start_worker, celery_client):
    for _ in range(2):
        start_worker("-P", "solo", "-n", "twin@here", broker=redis_url)
    with pytest.warns(DuplicateNodenameWarning, match="twin@here"):
        inspect(celery_client, redis_url, 2).ping()


@pytest.mark.acceptance(13)
@pytest.mark.parametrize("pool", POOLS)
def test_workers_share_the_queue(pool, broker_url, backend_url, start_worker, client, tmp_path):
    for name in ("one", "two"):
        start_worker("-P", pool, "-c", "1", "-n", f"{name}@here", broker=broker_url, backend=backend_url)
    app = client(broker_url, backend_url)
    gate = tmp_path / "gate"
    results = [app.tasks["proj.hold"].delay(str(gate)) for _ in range(2)]

    def at_work() -> set[str]:
        active = app.control.inspect(["one@here", "two@here"], timeout=5).active() or {}
        return {node for node, tasks in active.items() if tasks}

    # Neither task ends before the other has begun: one worker alone could not run both.
    wait_for(lambda: at_work() == {"one@here", "two@here"}, 20, "both workers to have a task")
    gate.touch()
    for result in results:
        result.get(timeout=20)


# ---------------------------------------------------------------- D: concurrency


@pytest.mark.acceptance(5)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet"])
def test_concurrency_sets_the_size_of_the_pool(pool, redis_url, start_worker, celery_client):
    worker = start_worker("-P", pool, "--concurrency=10", broker=redis_url)
    stats = inspect(celery_client, redis_url).stats()[worker.node]
    assert stats["pool"]["max-concurrency"] == 10


@pytest.mark.acceptance(52)
def test_processes_are_the_default(redis_url, start_worker, celery_client):
    worker = start_worker("-c", "3", broker=redis_url)

    def pool():
        return inspect(celery_client, redis_url).stats()[worker.node]["pool"]

    assert "prefork" in pool()["implementation"]
    processes = wait_for(lambda: (found := pool()["processes"]) and len(found) == 3 and found, 30, "three processes")
    assert all(psutil.pid_exists(pid) and pid != worker.pid for pid in processes)


@pytest.mark.acceptance(54)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_tasks_overlap_in_a_pool_of_two(pool, redis_url, start_worker, client, ledger_path):
    start_worker("-P", pool, "-c", "2", broker=redis_url, ledger=ledger_path)
    app = client(redis_url)
    for name in ("a", "b"):
        app.tasks["proj.sleeptask"].delay(1, name)
    wait_for(lambda: ledger.size(ledger_path) == 4, 20, "both tasks")
    assert {line[:5] for line in ledger.lines(ledger_path)[:2]} == {"start"}


@pytest.mark.acceptance(54)
def test_solo_runs_one_task_after_the_other(redis_url, start_worker, client, ledger_path):
    start_worker("-P", "solo", broker=redis_url, ledger=ledger_path)
    app = client(redis_url)
    for name in ("a", "b", "c"):
        app.tasks["proj.sleeptask"].delay(0.1, name)
    wait_for(lambda: ledger.size(ledger_path) == 6, 20, "three tasks")
    assert ledger.lines(ledger_path) == ["start:a", "end:a", "start:b", "end:b", "start:c", "end:c"]


@pytest.mark.acceptance(55)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet"])
def test_as_many_slots_as_cores_by_default(pool, redis_url, start_worker, celery_client):
    worker = start_worker("-P", pool, broker=redis_url)
    cores = len(os.sched_getaffinity(0))
    assert inspect(celery_client, redis_url).stats()[worker.node]["pool"]["max-concurrency"] == cores


@pytest.mark.acceptance(56)
def test_several_workers_with_small_pools(redis_url, start_worker, client, ledger_path):
    for number in range(3):
        start_worker("-c", "3", "-n", f"w{number}@here", broker=redis_url, ledger=ledger_path)
    app = client(redis_url)
    ids = list(range(600))
    app.send_many(app.tasks["proj.record"].si(number) for number in ids)
    wait_for(lambda: ledger.size(ledger_path) >= len(ids), 20, lambda: str(ledger.balance(ids, ledger_path)))
    assert ledger.balance(ids, ledger_path).balanced
