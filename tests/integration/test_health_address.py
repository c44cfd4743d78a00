"""Where the health endpoint listens, and `framework health`, which finds it there."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from framework import exitcodes
from support import workers
from support.probes import Probe, socket_path
from support.wait import wait_for


def test_two_workers_cannot_have_the_same_port(redis_url, start_worker):
    address = Probe.of(start_worker("-P", "threads", "--health", "127.0.0.1:0", broker=redis_url)).address
    second = start_worker("-P", "threads", "-n", "second@here", "--health", address, broker=redis_url, ready=False)
    assert second.wait() == exitcodes.CANT_CREATE
    (line,) = second.lines("framework: error")
    assert f"the health endpoint cannot listen on {address}: address already in use; give this one another" in line


def test_a_unix_socket_is_taken_over_from_a_killed_worker_and_from_no_other(redis_url, start_worker, tmp_path):
    path = socket_path(tmp_path)
    first = start_worker("-P", "threads", "--health", path, broker=redis_url)
    Probe(path).wait(live=True, ready=True)
    second = start_worker("-P", "threads", "-n", "second@here", "--health", path, broker=redis_url, ready=False)
    assert second.wait() == exitcodes.CANT_CREATE
    assert "a running worker listens there" in second.lines("framework: error")[0]
    first.kill()
    assert os.path.exists(path)
    third = start_worker("-P", "threads", "--health", path, broker=redis_url)
    Probe(path).wait(live=True, ready=True)
    assert third.stop() == 0
    assert not os.path.exists(path)


def test_a_file_of_another_kind_is_left_alone(redis_url, start_worker, tmp_path):
    path = tmp_path / "precious"
    path.write_text("kept")
    worker = start_worker("-P", "threads", "--health", str(path), broker=redis_url, ready=False)
    assert worker.wait() == exitcodes.CANT_CREATE
    assert path.read_text() == "kept"


@pytest.mark.parametrize("value", ["localhost", "127.0.0.1:http", "99999", "::1:80"])
def test_what_is_no_address_is_refused_in_words(value, redis_url, start_worker):
    worker = start_worker("-P", "threads", "--health", value, broker=redis_url, ready=False)
    assert worker.wait() == exitcodes.CONFIG
    assert f"health under [worker] is '{value}'; wanted a port" in worker.lines("framework: error")[0]
    assert not worker.lines("\\[config\\]"), "a banner before the refusal"


def test_the_command_finds_the_endpoint_in_the_config_file(place, sqlite_url):
    here = place(sqlite_url, '[worker]\npool = "threads"\nhealth = "./%n.sock"\n[nodes.web]\n[nodes.mail]\n')
    done = here.run("health")
    assert done.returncode == exitcodes.UNAVAILABLE
    assert "nothing answers on ./celery.sock" in done.stdout
    here.ok("worker", "--detach", "-l", "info", "-n", "web@here", "--logfile=web.log", "--pidfile=web.pid")
    here.ready("web.log")
    wait_for(lambda: here.run("health", "--ready", "-d", "web@here").returncode == 0, 40, lambda: here.text("web.log"))
    (told,) = json.loads(here.ok("health", "--json", "-d", "web"))
    assert (told["live"], told["ready"], told["node"], told["pid"]) == (True, True, "web@here", here.pid("web.pid"))
    both = here.run("health", "-d", "web,mail")
    assert both.returncode == exitcodes.UNAVAILABLE
    assert here.run("health", "--quiet", "-d", "web").stdout == ""
    # Whatever stands still, the probe does not.
    pid = here.pid("web.pid")
    os.kill(pid, signal.SIGSTOP)
    frozen = here.run("health", "-d", "web", "--timeout", "0.5")
    os.kill(pid, signal.SIGCONT)
    assert frozen.returncode == exitcodes.UNAVAILABLE
    assert "no response within 0.5 s" in frozen.stdout


def test_the_command_tells_live_from_ready(start_worker, tmp_path):
    path = socket_path(tmp_path)
    worker = start_worker("-P", "solo", "--health", path, broker="redis://127.0.0.1:1/0", ready=False)
    Probe.of(worker)
    assert workers.run_command("health", "--health", path).returncode == 0
    done = workers.run_command("health", "--ready", "--health", path)
    assert done.returncode == exitcodes.INCOMPLETE
    assert "no connection to the broker" in done.stdout


def test_the_command_says_what_to_do_when_there_is_no_endpoint(tmp_path):
    done = workers.run_command("health", app_dir=tmp_path)
    assert done.returncode == exitcodes.CONFIG
    assert "no health endpoint is configured for celery@" in done.stderr
    assert "put health = 9808, or a path, under [worker] in framework.toml" in done.stderr


def test_the_command_knows_a_stranger():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        # Nobody accepts: the kernel takes the connection, and that is all.
        done = workers.run_command("health", "--health", str(port), "--timeout", "0.5")
    assert done.returncode == exitcodes.UNAVAILABLE
    assert "no response within 0.5 s" in done.stdout


def test_without_the_option_the_graph_says_why_it_stays_out():
    assert "no --health" in workers.run_command("graph", "-A", "proj", "--explain").stdout
