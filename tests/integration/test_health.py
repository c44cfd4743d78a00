"""Probes of real workers: live while the loop turns and tasks can start, ready while they consume."""

from __future__ import annotations

import signal

import pytest

from support import ledger
from support.probes import Probe
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]
ANY_PORT = ("--health", "127.0.0.1:0", "worker.health_patience=3")


def options(pool, slots=1):
    return ("-P", pool, "-c", str(slots), *ANY_PORT)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_is_well_unless_its_loop_is_frozen(pool, redis_url, start_worker, client, ledger_path, tmp_path):
    worker = start_worker(*options(pool), broker=redis_url, ledger=ledger_path, app="support.frozen")
    probe = Probe.of(worker)
    probe.wait(live=True, ready=True)
    sender = client(redis_url)
    thaw, gate = tmp_path / "thaw", tmp_path / "gate"
    if pool == "eventlet":
        # A task that lets nobody else run freezes a green pool's loop with all the rest.
        sender.send_task("frozen.hog", (str(thaw), "hog"))
    else:
        sender.control.broadcast("freeze", {"gate": str(thaw)})
    probe.wait(live=False, ready=False, why="the loop has not run")
    assert probe.metrics()[("framework_worker_live",)] == 0
    thaw.touch()
    probe.wait(live=True, ready=True)
    # All slots are busy with long tasks, and others wait.
    for number in range(3):
        sender.tasks["proj.hold_late"].delay(str(gate), number)
    wait_for(lambda: any(ledger.read(ledger_path)[f"start:{n}"] for n in range(3)), 40, lambda: worker.output)
    active = ("framework_tasks_active",)
    wait_for(lambda: probe.metrics()[active] == 1, 40, lambda: str(probe.metrics()))
    probe.wait(live=True, ready=True)
    # Draining: what runs goes on, nothing is consumed.
    worker.signal(signal.SIGTERM)
    probe.wait(live=True, ready=False, why="stops")
    gate.touch()
    assert worker.wait() == 0
