"""One broker to consume from and another to publish to: `broker_read_url` and `broker_write_url`."""

from __future__ import annotations

import pytest
import redis

from support import ledger, queues, workers
from support.listening import listening
from support.wait import wait_for


@pytest.fixture
def read(redis_server):
    """Where the worker looks."""
    return redis_server.fresh_url()


@pytest.fixture
def write(redis_server):
    """Where calls go."""
    return redis_server.fresh_url()


@pytest.fixture
def settings(read, write):
    return {"broker_read_url": read, "broker_write_url": write, "task_send_sent_event": True}


@pytest.fixture
def worker(settings, sqlite_url, start_worker, ledger_path):
    """A worker whose `broker_url` is one that nobody uses."""
    conf = settings | {"task_unknown_retries": 0}
    return start_worker("-P", "solo", "-E", broker=sqlite_url, backend="rpc://", ledger=ledger_path, conf=conf)


def carry(source, target):
    """Do what lies between two such brokers: bring what waits in one to the other."""
    with redis.Redis.from_url(source) as taken, redis.Redis.from_url(target) as brought:
        while (message := taken.rpop("celery")) is not None:
            brought.lpush("celery", message)


def answers(app):
    """Ask who is there until somebody answers: a worker may be ready a moment before it hears."""
    return wait_for(lambda: app.control.ping(timeout=2, limit=1), 40, "an answer to ping")


def test_calls_go_to_one_and_the_worker_looks_in_the_other(
    worker, settings, read, write, sqlite_url, client, ledger_path
):
    app = client(sqlite_url, "rpc://", **settings)
    with listening(app) as heard:
        result = app.tasks["proj.retrying"].delay(1)
        assert (queues.waiting(write), queues.waiting(read)) == (1, 0)
        # What lies where the worker looks is run, and what lies in the other is not.
        client(read).tasks["proj.record"].delay("seen")
        wait_for(lambda: ledger.lines(ledger_path) == ["seen"], 30, lambda: worker.output)
        assert queues.waiting(write) == 1
        carry(write, read)
        # What a task sends, its own retry too, is a call.
        wait_for(lambda: queues.waiting(write) == 1, 30, lambda: worker.output)
        wait_for(lambda: heard.of("task-retried"), 30, lambda: worker.output)
        carry(write, read)
        assert result.get(timeout=30) == 1
        wait_for(lambda: heard.of("task-succeeded"), 30, lambda: str(heard.types()))
        # The client's and, of the retry, the worker's: monitors listen to both at one place.
        wait_for(lambda: heard.types()["task-sent"] == 2, 30, lambda: str(heard.types()))
    assert f"transport:   {read}" in worker.output


def test_control_and_the_commands_for_queues_go_to_where_the_worker_looks(
    worker, settings, read, write, sqlite_url, client
):
    app = client(sqlite_url, **settings)
    assert [list(reply) for reply in answers(app)] == [[worker.node]]
    # The worker's own letters stay where it looks.
    client(read).send_task("proj.unheard_of")
    wait_for(lambda: queues.waiting(read, "celery.dlq") == 1, 30, lambda: worker.output)
    assert queues.waiting(write, "celery.dlq") == 0

    env = workers.app_environment(broker=sqlite_url) | {
        "FRAMEWORK_BROKER_READ_URL": read,
        "FRAMEWORK_BROKER_WRITE_URL": write,
    }

    def printed(*args):
        done = workers.run_command("-A", "proj", *args, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # Who is named is waited for, no longer than it takes.
    there = ("--destination", worker.node, "--timeout", "20")
    assert "proj.unheard_of" in printed("dlq", "list")
    assert "broker for calls" in printed("report")
    assert worker.node in printed("inspect", "ping", *there)
    # One broker for everything, when the command line names one.
    assert worker.node in printed("inspect", "ping", *there, "--broker", read)
    assert "proj.unheard_of" not in printed("dlq", "list", "--broker", write)


def test_both_may_be_the_same(read, sqlite_url, start_worker, client):
    conf = {"broker_read_url": read, "broker_write_url": [read]}
    worker = start_worker("-P", "solo", broker=sqlite_url, backend="rpc://", conf=conf)
    app = client(sqlite_url, "rpc://", **conf)
    assert app.tasks["proj.retrying"].delay(2).get(timeout=30) == 2
    assert [list(reply) for reply in answers(app)] == [[worker.node]]
    assert app.publisher.outlet is app.transport


def test_purge_empties_what_the_worker_would_read(settings, read, write, sqlite_url, client):
    for url in (read, write):
        client(url).tasks["proj.noop"].delay()
    assert client(sqlite_url, **settings).control.purge() == 1
    assert (queues.waiting(read), queues.waiting(write)) == (0, 1)
