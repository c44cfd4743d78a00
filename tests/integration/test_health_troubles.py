"""Probes of real workers whose broker goes, whose processes are stopped, whose queues are taken away."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from framework import __version__
from support import ledger
from support.brokers import PrivateRedis
from support.ports import free_port
from support.probes import Probe, connect
from support.wait import wait_for

ANY_PORT = ("--health", "127.0.0.1:0", "worker.health_patience=3")


def options(pool, slots=1):
    return ("-P", pool, "-c", str(slots), *ANY_PORT)


def test_without_a_broker_it_lives_and_is_not_ready(start_worker):
    server = PrivateRedis()
    try:
        server.start()
        worker = start_worker(*options("threads"), broker=server.url)
        probe = Probe.of(worker)
        probe.wait(live=True, ready=True)
        before = probe.metrics()[("framework_broker_connections_total",)]
        server.kill()
        probe.wait(live=True, ready=False, why="no connection to the broker")
        assert probe.metrics()[("framework_broker_connected",)] == 0
        server.start()
        probe.wait(live=True, ready=True)
        assert probe.metrics()[("framework_broker_connections_total",)] > before
    finally:
        server.close()


def test_before_the_broker_is_there_it_lives_and_is_not_ready(start_worker):
    worker = start_worker(*options("solo"), broker="redis://127.0.0.1:1/0", ready=False)
    Probe.of(worker).wait(live=True, ready=False, why="no connection to the broker")
    assert worker.stop() == 0


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_pool_whose_processes_are_all_stopped_is_not_live(
    busy, redis_url, start_worker, client, ledger_path, tmp_path
):
    worker = start_worker(*options("prefork", 2), broker=redis_url, ledger=ledger_path)
    probe = Probe.of(worker)
    gate = tmp_path / "gate"
    if busy:
        for number in range(2):
            client(redis_url).tasks["proj.hold_late"].delay(str(gate), number)
        wait_for(lambda: ledger.read(ledger_path).total() == 2, 40, lambda: worker.output)
    probe.wait(live=True, ready=True)
    pids = client(redis_url).control.inspect(timeout=20, limit=1).stats()[worker.node]["pool"]["processes"]
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGSTOP)
    stuck = ("framework_pool_slots_stuck",)
    wait_for(lambda: probe.metrics()[stuck] == 1, 40, lambda: str(probe.metrics()))
    # One that is left will do.
    probe.wait(live=True, ready=True)
    os.kill(pids[1], signal.SIGSTOP)
    probe.wait(live=False, ready=False, why="all 2 slots are stuck: 2 processes are stopped")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    probe.wait(live=True, ready=True)
    gate.touch()


def test_what_it_is_told_to_leave_makes_it_unready(redis_url, start_worker, client):
    worker = start_worker(*options("threads"), broker=redis_url)
    probe = Probe.of(worker)
    probe.wait(live=True, ready=True)
    control = client(redis_url).control
    (queue,) = control.inspect(timeout=20, limit=1).active_queues()[worker.node]
    control.cancel_consumer(queue["name"], reply=True, timeout=20, limit=1)
    probe.wait(live=True, ready=False, why="no queue")
    control.add_consumer(queue["name"], reply=True, timeout=20, limit=1)
    probe.wait(live=True, ready=True)


def test_it_is_there_again_after_hup_at_the_same_address(redis_url, start_worker):
    worker = start_worker("-P", "threads", "--health", f"127.0.0.1:{free_port()}", broker=redis_url)
    probe = Probe.of(worker)
    probe.wait(live=True, ready=True)
    worker.signal(signal.SIGHUP)
    worker.wait_line("Health endpoint on", 40, count=2)
    probe.wait(live=True, ready=True)


def test_slow_and_many_clients_hold_up_neither_probes_nor_tasks(redis_url, start_worker, client):
    worker = start_worker("-P", "gevent", "-c", "4", "--health", "127.0.0.1:0", broker=redis_url, backend=redis_url)
    probe = Probe.of(worker)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(probe.address)).sendall(b"GET /met")
        probe.wait(live=True, ready=True)
        assert client(redis_url, redis_url).tasks["proj.add"].delay(2, 3).get(timeout=40) == 5
        ended = ("framework_tasks_total", "outcome=succeeded", "task=proj.add")
        wait_for(lambda: probe.metrics().get(ended) == 1, 40, lambda: str(probe.metrics()))
        info = ("framework_worker_info", f"node={worker.node}", "pool=gevent", f"version={__version__}")
        assert probe.metrics()[info] == 1
    assert worker.stop() == 0


def test_what_becomes_of_tasks_is_counted(redis_url, start_worker, client):
    held = {"worker_eta_park_after": 7200, "task_unknown_retries": 0}
    worker = start_worker("-P", "prefork", "-c", "1", *ANY_PORT, broker=redis_url, backend=redis_url, conf=held)
    probe = Probe.of(worker)
    sender = client(redis_url, redis_url)
    sender.tasks["proj.fail"].delay()
    sender.tasks["proj.retrying"].delay(2)
    sender.tasks["proj.add"].apply_async((1, 1), expires=-1)
    sender.tasks["proj.add"].apply_async((1, 1), countdown=1000)
    sender.send_task("nobody.knows", ())
    expected = {
        ("framework_tasks_total", "outcome=failed", "task=proj.fail"): 1,
        ("framework_tasks_total", "outcome=retried", "task=proj.retrying"): 2,
        ("framework_tasks_total", "outcome=succeeded", "task=proj.retrying"): 1,
        ("framework_tasks_total", "outcome=revoked", "task=proj.add"): 1,
        ("framework_task_runs_total", "task=proj.retrying"): 3,
        ("framework_dead_letters_total", "reason=unregistered"): 1,
        ("framework_tasks_scheduled",): 1,
        ("framework_tasks_started_total",): 4,
        ("framework_pool_processes",): 1,
    }
    wait_for(lambda: expected.items() <= probe.metrics().items(), 40, lambda: str(probe.metrics()))
    found = probe.metrics()
    assert found["process_resident_memory_bytes",] > 1_000_000
    assert found["framework_pool_resident_memory_bytes",] > 1_000_000
    assert not any("nobody.knows" in label for key in found for label in key)
