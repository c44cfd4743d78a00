"""Broadcast queues: every worker runs a task that is sent to one, on every broker, and its own queue ends with it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis
from kombu.common import Broadcast as KombuBroadcast

from framework import Broadcast, Queue
from framework.exceptions import TransportError
from support import ledger, queues, workers
from support.fleet import Fleet, running
from support.wait import wait_for

NODES = {"one@here", "two@here"}
DEFINED = {"everyone": {"broadcast": True}, "celery": {}}


@pytest.fixture(scope="module", params=["redis", "amqp", "sqlite"])
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    """Two workers that consume from a broadcast queue, one of them also from the queue of the rest."""
    directory = tmp_path_factory.mktemp("broadcast")
    options = (("-P", "prefork", "-c", "1", "-Q", "everyone"), ("-P", "threads", "-c", "1", "-Q", "celery,everyone"))
    conf = {"task_queues": DEFINED, "task_routes": {"proj.stamp_at_last": "everyone"}}
    with running(request, request.param, directory, *options, conf=conf) as made:
        made.ours.conf.update(task_queues=[Broadcast("everyone"), Queue(name="celery")])
        yield made


def ran_by(fleet: Fleet, entry: str) -> list[str]:
    """Return the nodes that ran `proj.stamp` with `entry`."""
    return [line.split()[1] for line in ledger.lines(fleet.book) if line.startswith(f"{entry} ")]


def everybody_runs(fleet: Fleet, entry: str) -> None:
    """Wait until every worker has run `entry`; then see that all tasks of a later one ran once a worker, too."""
    wait_for(lambda: len(ran_by(fleet, entry)) >= len(NODES), 60, f"{entry} everywhere: {ran_by(fleet, entry)}")
    assert sorted(ran_by(fleet, entry)) == sorted(NODES)


def test_every_worker_runs_it(fleet):
    entries = [f"copy{number}" for number in range(10)]
    for entry in entries:
        fleet.send("proj.stamp", entry, queue="everyone")
    for entry in entries:
        everybody_runs(fleet, entry)


def test_many_at_once_and_a_route(fleet):
    stamp = fleet.ours.tasks["proj.stamp"]
    fleet.ours.send_many([stamp.s(f"many{number}").set(queue="everyone") for number in range(20)])
    fleet.ours.conf.update(task_routes={"proj.stamp": "everyone"})
    try:
        stamp.delay("routed")
    finally:
        fleet.ours.conf.update(task_routes=None)
    for entry in (*(f"many{number}" for number in range(20)), "routed"):
        everybody_runs(fleet, entry)


def test_its_exchange_is_enough(fleet):
    fleet.send("proj.stamp", "exchange", exchange="everyone", exchange_type="fanout")
    everybody_runs(fleet, "exchange")


def test_what_the_workers_say_about_it(fleet):
    answers = fleet.ask("active_queues")
    own = {node: [each for each in consumed if each["alias"] == "everyone"] for node, consumed in answers.items()}
    names = {each["name"] for consumed in own.values() for each in consumed}
    assert {node: len(consumed) for node, consumed in own.items()} == dict.fromkeys(NODES, 1)
    assert len(names) == 2
    for each in (queue for consumed in own.values() for queue in consumed):
        assert (each["exchange"]["name"], each["exchange"]["type"]) == ("everyone", "fanout")
        assert each["auto_delete"]


def test_a_retry_stays_with_its_worker(fleet):
    fleet.send("proj.stamp_at_last", "late", 2, queue="everyone")
    everybody_runs(fleet, "late")
    # What was sent after the last retry has run: no other copy is on its way.
    fleet.send("proj.stamp", "after", queue="everyone")
    everybody_runs(fleet, "after")
    assert sorted(ran_by(fleet, "late")) == sorted(NODES)
    assert sorted(ran_by(fleet, "late#1")) == sorted(ran_by(fleet, "late#0")) == sorted(NODES)


def test_a_worker_leaves_it_and_comes_back(fleet):
    assert fleet.tell("cancel_consumer", "everyone", to=["two@here"]) == {
        "two@here": {"ok": "no longer consuming from everyone"}
    }
    fleet.send("proj.stamp", "alone", queue="everyone")
    wait_for(lambda: ran_by(fleet, "alone") == ["one@here"], 60, "one run")
    assert fleet.tell("add_consumer", "everyone", to=["two@here"]) == {
        "two@here": {"ok": "started consuming from 'everyone'"}
    }
    fleet.send("proj.stamp", "both", queue="everyone")
    everybody_runs(fleet, "both")
    assert ran_by(fleet, "alone") == ["one@here"]


def test_celery_sends_to_it(fleet):
    if fleet.url.startswith("sqlite"):
        pytest.skip("Celery cannot reach this broker")
    fleet.client.conf.task_queues = [KombuBroadcast("everyone")]
    fleet.client.send_task("proj.stamp", ("theirs",), queue="everyone")
    everybody_runs(fleet, "theirs")


def test_the_queues_command_says_what_it_is(fleet):
    env = workers.app_environment(broker=fleet.url, conf=json.dumps({"task_queues": DEFINED}))
    shown = workers.run_command("-A", "proj", "queues", env=env)
    assert shown.returncode == 0, shown.stderr
    assert "(a queue for each worker)" in shown.stdout
    (entry,) = [
        each
        for each in json.loads(workers.run_command("-A", "proj", "queues", "--json", env=env).stdout)
        if each["queue"] == "everyone"
    ]
    assert entry == {
        "queue": "everyone", "waiting": None, "parked": None, "exchange": "everyone", "exchange_type": "fanout",
        "routing_key": "celery", "broadcast": True,
    }  # fmt: skip


def test_it_is_back_with_the_connection(fleet):
    if fleet.url.startswith("sqlite"):
        pytest.skip("a file has no connections to cut")
    fleet.cut()
    fleet.send("proj.stamp", "later", queue="everyone")
    everybody_runs(fleet, "later")


# ---------------------------------------------------------------- the beginning and the end of a worker's queue


@pytest.fixture
def own_queues(broker_url, request):
    """Return a function that lists what the broker has of the own queues of workers."""

    def listed() -> list[str]:
        if broker_url.startswith("amqp"):
            vhost = urlsplit(broker_url).path[1:]
            names = request.getfixturevalue("rabbit_server").ctl("list_queues", "-p", vhost, "name", "--silent").split()
        elif broker_url.startswith("redis"):
            with redis.Redis.from_url(broker_url, decode_responses=True) as server:
                names = [*server.keys("*"), *server.smembers("_kombu.binding.everyone")]
        else:
            with contextlib.closing(sqlite3.connect(urlsplit(broker_url).path[1:])) as file:
                names = [name for (name,) in file.execute("SELECT name FROM framework_queues")]
        return [name for name in names if "bcast." in name]

    return listed


def test_the_queue_of_a_worker_goes_with_it(broker_url, start_worker, own_queues, client, ledger_path):
    """A killed worker's queue is gone at the latest when another starts; one that stops takes its queue along."""
    begin = {"broker": broker_url, "ledger": ledger_path, "conf": {"task_queues": {"everyone": {"broadcast": True}}}}
    killed = start_worker("-P", "solo", "-n", "killed@here", **begin)
    app = client(broker_url, task_queues=[Broadcast("everyone")])
    app.tasks["proj.record"].apply_async(("first",), queue="everyone")
    wait_for(lambda: ledger.lines(ledger_path) == ["first"], 60, "a run")
    killed.kill()
    worker = start_worker("-P", "solo", "-n", "other@here", **begin)
    wait_for(lambda: len(own_queues()) == 1, 60, lambda: f"one queue: {own_queues()}")
    app.tasks["proj.record"].apply_async(("second",), queue="everyone")
    wait_for(lambda: ledger.lines(ledger_path) == ["first", "second"], 60, "another run")
    assert worker.stop() == 0
    assert own_queues() == []
    # Nobody listens, and nobody ever gets it.
    app.tasks["proj.record"].apply_async(("nobody",), queue="everyone")
    assert own_queues() == []


def test_a_client_before_any_worker(broker_url, client):
    """Nobody listens: as with every exchange of this type, that is no error."""
    app = client(broker_url, task_queues={"everyone": {"broadcast": True}})
    for number in range(3):
        app.tasks["proj.record"].apply_async((number,), queue="everyone")


def test_a_dead_letter_is_replayed_to_a_queue_of_ones_choice(sqlite_url, start_worker, client):
    """It was the copy of one worker: neither the others nor a queue that is gone get it again."""
    conf = {"task_queues": {"everyone": {"broadcast": True}, "celery": {}}, "task_unknown_retries": 0}
    worker = start_worker("-P", "solo", "-Q", "everyone", broker=sqlite_url, conf=conf)
    client(sqlite_url, task_queues=[Broadcast("everyone")]).send_task("proj.unheard_of", queue="everyone")
    worker.wait_line("moved to everyone.dlq")
    env = workers.app_environment(broker=sqlite_url, conf=json.dumps(conf))
    wait_for(lambda: queues.waiting(sqlite_url, "everyone.dlq") == 1, 60, "the dead letter")
    refused = workers.run_command("-A", "proj", "dlq", "replay", "--all", env=env)
    assert refused.returncode == 65
    assert "broadcast queue 'everyone'" in refused.stdout + refused.stderr
    moved = workers.run_command("-A", "proj", "dlq", "replay", "--all", "--to", "celery", env=env)
    assert moved.returncode == 0, moved.stderr
    assert queues.waiting(sqlite_url, "celery") == 1


def test_it_is_configured_in_the_file(place, sqlite_url):
    directory = place(sqlite_url, "[task.queues.everyone]\nbroadcast = true\n[task.queues.celery]\n")
    directory.ok("config", "check")
    assert "broadcast" in directory.ok("config", "show")
    assert "(a queue for each worker)" in directory.ok("queues")
    assert "No messages purged from 2 queues" in directory.ok("purge", "-f")


def test_a_broker_without_fan_out_refuses_it(tmp_path, start_worker, client):
    url = "filesystem://"
    options = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path), "control_folder": str(tmp_path)}
    conf = {"task_queues": {"everyone": {"broadcast": True}}, "broker_transport_options": options}
    with pytest.raises(TransportError, match="'everyone' cannot be a broadcast queue"):
        client(url, **conf).tasks["proj.noop"].apply_async(queue="everyone")
    worker = start_worker("-P", "solo", broker=url, conf=conf, ready=False)
    worker.wait_line("'everyone' cannot be a broadcast queue")


CELERY = """
from kombu import Queue
from kombu.common import Broadcast
from support.celeryproj import app

app.conf.task_queues = [Broadcast("everyone"), Queue("celery")]
"""


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_it_is_shared_with_workers_of_celery(broker, request, tmp_path, start_worker, start_celery_worker, client):
    url, book = request.getfixturevalue(f"{broker}_url"), tmp_path / "ledger"
    (tmp_path / "theirs.py").write_text(CELERY)
    start_celery_worker("-P", "solo", "-n", "two@here", broker=url, ledger=book, app="theirs", app_dir=tmp_path)
    start_worker("-P", "solo", "-n", "one@here", broker=url, ledger=book, conf={"task_queues": DEFINED})
    app = client(url, task_queues=[KombuBroadcast("everyone")])
    for number in range(3):
        app.tasks["proj.record"].apply_async((f"n{number}",), queue="everyone")
    wait_for(lambda: ledger.read(book) == {f"n{number}": 2 for number in range(3)}, 60, lambda: str(ledger.lines(book)))
