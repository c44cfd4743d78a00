"""What a client that asks workers can rely on: complete, no longer than it takes, and nothing left behind.

The waits have time-outs of a minute: a wait that does not end by itself fails the test by its own limit.
"""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import redis

from framework import exitcodes
from framework.api.transport import Exchange, Queue
from framework.wire.control_request import Replies
from support import workers
from support.wait import wait_for

#: Far beyond what a wait may last that ends by itself.
LONG = 60.0


@pytest.fixture
def url(request, broker):
    return request.getfixturevalue(f"{broker}_url")


@pytest.mark.acceptance(60, 63)
@pytest.mark.parametrize("broker", ["sqlite", "redis"])
def test_where_the_broker_counts_listeners_the_wait_ends_with_the_last(url, client, start_worker):
    app = client(url)
    assert app.control.ping(timeout=LONG) == []
    for name in ("one", "two", "three"):
        start_worker("-P", "solo", "-n", f"{name}@here", broker=url)
    assert {node for reply in app.control.ping(timeout=LONG) for node in reply} == {
        "one@here",
        "two@here",
        "three@here",
    }
    assert app.control.inspect(timeout=LONG).ping().keys() == {"one@here", "two@here", "three@here"}


@pytest.mark.acceptance(61, 66, 67, 71, 213)
@pytest.mark.parametrize("broker", ["sqlite", "redis", "amqp"])
def test_limit_and_destination_end_the_wait(url, client, start_worker):
    app = client(url)
    for name in ("one", "two", "three"):
        start_worker("-P", "solo", "-n", f"{name}@here", broker=url)
    assert len(app.control.ping(timeout=LONG, limit=1)) == 1
    two = app.control.ping(["one@here", "three@here"], timeout=LONG)
    assert two.nodes == {"one@here", "three@here"}
    assert not two.missing
    absent = app.control.ping(["one@here", "nobody@here"], timeout=0.3)
    assert absent.nodes == {"one@here"}
    assert absent.missing == {"nobody@here": None}


@pytest.mark.parametrize("broker", ["sqlite", "redis", "amqp"])
def test_a_bare_host_is_the_node_with_the_default_name(url, client, celery_client, start_worker):
    app = client(url)
    start_worker("-P", "solo", "-n", "celery@worker1.local", broker=url)
    start_worker("-P", "solo", "-n", "other@worker1.local", broker=url)
    start_worker("-P", "solo", "-n", "w@worker2.local", broker=url)
    assert app.control.ping(["worker1.local"], timeout=LONG).nodes == {"celery@worker1.local"}
    assert not app.control.ping(["worker1.local"], timeout=LONG).missing
    if broker_of(url) != "sqlite":  # which Celery does not speak
        theirs = celery_client(url).control.inspect(["worker1.local"], timeout=LONG, limit=1)
        assert set(theirs.ping()) == {"celery@worker1.local"}
    asked = workers.run_command(
        *("-A", "proj", "inspect", "ping", "-t", "1", "-d", "worker2.local"), env=workers.app_environment(broker=url)
    )
    assert asked.returncode == exitcodes.UNAVAILABLE
    assert "celery@worker2.local: did you mean w@worker2.local?" in asked.stderr


def broker_of(url):
    return url.partition(":")[0]


@pytest.mark.parametrize("broker", ["redis"])
def test_who_listens_and_does_not_answer_is_counted(url, client, start_worker):
    app = client(url)
    start_worker("-P", "solo", "-n", "well@here", broker=url)
    frozen = start_worker("-P", "solo", "-n", "frozen@here", broker=url)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        replies = app.control.ping(timeout=0.5)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    assert replies.nodes == {"well@here"}
    assert replies.silent == 1


@pytest.mark.parametrize("broker", ["redis"])
def test_the_command_line_tells_none_some_and_no_broker_apart(url, start_worker):
    def status(broker: str) -> tuple[int, str]:
        done = workers.run_command("-A", "proj", "status", "-t", "0.5", env=workers.app_environment(broker=broker))
        return done.returncode, done.stderr

    code, err = status(url)
    assert (code, err) == (exitcodes.UNAVAILABLE, "Error: No nodes replied within time constraint\n")
    code, err = status("redis://127.0.0.1:1")
    assert code == exitcodes.UNREACHABLE
    assert "127.0.0.1:1" in err
    start_worker("-P", "solo", "-n", "well@here", broker=url)
    assert status(url)[0] == exitcodes.OK
    frozen = start_worker("-P", "solo", "-n", "frozen@here", broker=url)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        code, err = status(url)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    assert code == exitcodes.INCOMPLETE
    assert "missing: " in err


@pytest.mark.parametrize("broker", ["redis"])
def test_the_command_line_says_that_a_worker_refused(url, start_worker):
    start_worker("-P", "solo", "-n", "well@here", broker=url)
    env = workers.app_environment(broker=url)
    done = workers.run_command("-A", "proj", "control", "rate_limit", "proj.nothing", "1/s", env=env)
    assert done.returncode == exitcodes.REFUSED
    assert "well@here: ERROR" in done.stdout
    assert "unknown task" in done.stdout


@pytest.mark.parametrize("broker", ["redis"])
def test_replies_go_to_reply_queues_only(url, client, start_worker):
    app = client(url)
    worker = start_worker("-P", "solo", "-n", "w@here", broker=url)
    mailbox = app.transport.mailbox()
    server = redis.Redis.from_url(url)
    from framework.wire.control_request import SentCommand

    for exchange, key in (("", "celery"), ("celery", "celery"), ("", 7)):
        request = SentCommand("ping", {}, exchange="celery.pidbox")
        request._body |= {"ticket": "t", "reply_to": {"exchange": exchange, "routing_key": key}}
        request.send(mailbox)
    mailbox.close()
    worker.wait_line("no reply queue", count=3)
    assert app.control.ping(timeout=LONG)
    assert not server.exists("celery")


KILLED = """
import os, signal, sys, threading
from framework import App
app = App("killed", broker=sys.argv[1])
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
app.control.broadcast("ping", reply=True, timeout=60, limit=9)
"""


def test_a_killed_client_leaves_no_key_for_long(redis_url, start_worker):
    start_worker("-P", "solo", "-n", "w@here", broker=redis_url)
    server = redis.Redis.from_url(redis_url)
    before = set(server.keys("*"))
    done = subprocess.run([sys.executable, "-c", KILLED, redis_url], check=False)
    assert done.returncode == -signal.SIGKILL
    left = set(server.keys("*")) - before
    assert all(0 < server.ttl(key) <= 60 for key in left), left


def test_a_killed_client_leaves_no_queue(amqp_url, rabbit_server, start_worker):
    start_worker("-P", "solo", "-n", "w@here", broker=amqp_url)
    subprocess.run([sys.executable, "-c", KILLED, amqp_url], check=False)
    vhost = amqp_url.rpartition("/")[2]
    wait_for(
        lambda: ".reply." not in rabbit_server.ctl("list_queues", "-p", vhost, "name"),
        20,
        "the reply queue to go with its client",
    )


@pytest.mark.acceptance(65)
def test_calls_from_many_threads_keep_their_replies(redis_url, client, start_worker):
    app = client(redis_url)
    for name in ("one", "two"):
        start_worker("-P", "solo", "-n", f"{name}@here", broker=redis_url)
    answers: list[Replies] = []

    def ask(command: str) -> None:
        for _ in range(10):
            answers.append(app.control.broadcast(command, reply=True, timeout=LONG))

    threads = [threading.Thread(target=ask, args=(command,)) for command in ("ping", "clock", "active_queues")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 30
    assert all(reply.nodes == {"one@here", "two@here"} for reply in answers)


def test_on_rabbitmq_workers_tell_whom_to_wait_for(amqp_url, client, start_worker, start_celery_worker):
    """The broker does not count listeners there; workers know each other by their events, Celery's too."""
    app = client(amqp_url)
    for name in ("one", "two"):
        start_worker("-P", "solo", "-n", f"{name}@here", broker=amqp_url)
    start_celery_worker("-P", "solo", "-n", "three@here", broker=amqp_url)
    everybody = {"one@here", "two@here", "three@here"}

    def roster() -> bool:
        # Ends by its time-out while the workers have not been listening for long enough.
        replies = app.control.ping(["one@here", "two@here", "three@here"], timeout=5)
        request_is_known = app.control.ping(timeout=0.2)
        return replies.nodes == everybody and request_is_known.nodes == everybody

    wait_for(roster, 30, "all three to answer")
    # Far longer than the test may take: it is the roster that ends the wait.
    wait_for(lambda: app.control.ping(timeout=3).nodes == everybody, 30, "a complete answer")
    assert app.control.ping(timeout=LONG).nodes == everybody


def test_a_worker_that_is_frozen_is_named(amqp_url, client, start_worker):
    app = client(amqp_url)
    start_worker("-P", "solo", "-n", "well@here", broker=amqp_url)
    frozen = start_worker("-P", "solo", "-n", "frozen@here", broker=amqp_url)

    def listed() -> bool:
        mailbox = app.transport.mailbox()
        try:
            from framework.wire.control_request import SentCommand

            request = SentCommand("ping", {}, exchange="celery.pidbox", destination=["well@here"])
            settings = app.conf.settings
            request.ask(mailbox, timeout=5, limit=1, accept=["json"], control=settings.control)
            return "frozen@here" in (request._roster or {})
        finally:
            mailbox.close()

    wait_for(listed, 30, "one worker to have heard the other")
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        replies = app.control.ping(timeout=0.5)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    assert replies.nodes == {"well@here"}
    assert list(replies.missing) == ["frozen@here"]
    assert replies.missing["frozen@here"] >= 0


@pytest.mark.acceptance(64, 212)
@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_the_wait_is_as_long_as_asked_for(url, client):
    """Somebody listens and does not answer: the time-out ends the wait, and not before."""
    app = client(url)
    mailbox = app.transport.mailbox()
    mailbox.subscribe(
        Queue(
            name="mute.celery.pidbox",
            exchange=Exchange(name="celery.pidbox", type="fanout", durable=False),
            durable=False,
            exclusive=True,
            auto_delete=True,
        )
    )
    for timeout in (0.2, 1.0):
        begun = time.monotonic()
        assert app.control.ping(timeout=timeout) == []
        assert time.monotonic() - begun >= timeout
    assert inspect.signature(app.control.ping).parameters["timeout"].default == 1.0
    mailbox.close()


@pytest.mark.parametrize("broker", ["sqlite", "redis", "amqp"])
def test_purge_drops_what_waits_and_tells_how_much(url, client):
    app = client(url)
    for number in range(3):
        app.tasks["proj.noop"].apply_async((number,))
    assert app.control.purge() == 3
    assert app.control.purge() == 0
