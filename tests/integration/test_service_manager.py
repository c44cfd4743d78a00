"""Workers under a service manager that listens on NOTIFY_SOCKET."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from support import workers
from support.wait import wait_for


class Manager:
    """What systemd is to a service: a socket that hears."""

    def __init__(self, address):
        self.address = address
        self.heard = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def listen(self):
        while True:
            try:
                self.heard.append(self._socket.recv(4096).decode().splitlines())
            except BlockingIOError:
                return [line for message in self.heard for line in message]

    def wait(self, line, count=1):
        wait_for(lambda: self.listen().count(line) >= count, 20, lambda: f"{line} {count} times in {self.heard}")

    def close(self):
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    found = Manager(str(tmp_path / "notify") if request.param == "path" else f"@test-{os.getpid()}-{tmp_path.name}")
    yield found
    found.close()


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_it_hears_of_readiness_reload_and_stop(pool, manager, redis_url, start_worker):
    worker = start_worker("-P", pool, "-c", "1", broker=redis_url, env={"NOTIFY_SOCKET": manager.address})
    manager.wait("READY=1")
    assert manager.heard[-1] == ["READY=1", "STATUS=Consuming"]
    worker.signal(signal.SIGHUP)
    manager.wait("READY=1", count=2)
    assert manager.listen().count("RELOADING=1") == 1
    (reloading,) = [message for message in manager.heard if "RELOADING=1" in message]
    assert int(reloading[1].removeprefix("MONOTONIC_USEC=")) > 0
    assert "STOPPING=1" not in manager.listen()
    worker.wait_ready(count=2)
    assert worker.stop() == 0
    assert manager.listen().count("STOPPING=1") == 1
    assert "WATCHDOG=1" not in manager.listen()


def test_it_is_asked_for_time_while_the_broker_is_away(manager, start_worker):
    nowhere = "redis://127.0.0.1:1/0"
    worker = start_worker("-P", "solo", broker=nowhere, env={"NOTIFY_SOCKET": manager.address}, ready=False)
    manager.wait("EXTEND_TIMEOUT_USEC=30000000")
    worker.wait_line("Trying again in")
    assert "READY=1" not in manager.listen()
    assert worker.stop() == 0
    manager.wait("STOPPING=1")


def test_the_watchdog_is_answered_by_the_loop(manager, redis_url, start_worker, client, ledger_path):
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    worker = start_worker("-P", "solo", broker=redis_url, ledger=ledger_path, env=variables)
    # A task that runs in the main thread holds nothing up.
    client(redis_url).tasks["proj.sleeptask"].delay(30)
    worker.wait_line("received")
    beats = manager.listen().count("WATCHDOG=1")
    manager.wait("WATCHDOG=1", count=beats + 5)
    worker.kill()


def test_the_watchdog_of_another_process_is_left_alone(manager, redis_url, start_worker):
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "10000", "WATCHDOG_PID": "1"}
    worker = start_worker("-P", "solo", broker=redis_url, env=variables)
    manager.wait("READY=1")
    assert worker.stop() == 0
    assert "WATCHDOG=1" not in manager.listen()


def test_a_manager_that_is_not_there_fails_nothing(tmp_path, redis_url, start_worker):
    worker = start_worker("-P", "solo", broker=redis_url, env={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    worker.wait_line("Continuing without the step 'notify'")
    assert worker.stop() == 0


def test_without_one_the_graph_says_why_it_stays_out():
    done = workers.run_command("graph", "-A", "proj", "--explain")
    assert "no service manager: NOTIFY_SOCKET is not set" in done.stdout
