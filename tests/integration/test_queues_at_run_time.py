"""Queues that are added and cancelled while workers run, and workers that are quiet for a while (acceptance L 147-161).

Celery's own client steers the workers on Redis and RabbitMQ, ours those on SQLite.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support import ledger, queues
from support.fleet import Fleet, running
from support.wait import wait_for

ONE, TWO = "one@here", "two@here"


@pytest.fixture(scope="module", params=["redis", "amqp", "sqlite"])
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("queues")
    with running(request, request.param, directory, ("-P", "prefork", "-c", "1"), ("-P", "threads", "-c", "1")) as made:
        yield made


def consumed(fleet: Fleet, node: str = ONE) -> dict[str, dict]:
    return {queue["name"]: queue for queue in fleet.ask("active_queues", to=[node])[node]}


@pytest.mark.acceptance(148, 150, 153)
def test_a_queue_is_added_once(fleet):
    assert fleet.tell("add_consumer", "foo") == {node: {"ok": "started consuming from 'foo'"} for node in fleet.nodes}
    assert fleet.tell("add_consumer", "foo") == {node: {"ok": "already consuming from 'foo'"} for node in fleet.nodes}
    assert list(consumed(fleet)).count("foo") == 1
    fleet.workers[ONE].wait_line("Started consuming from foo")
    for number in range(20):
        fleet.send("proj.record", f"foo{number}", queue="foo")
    sent = [f"foo{number}" for number in range(20)]
    for entry in sent:
        fleet.ran(entry)
    assert sorted(entry for entry in ledger.lines(fleet.book) if entry in sent) == sorted(sent)


@pytest.mark.acceptance(151)
def test_a_destination_limits_it(fleet):
    assert fleet.tell("add_consumer", "only", to=[ONE]) == {ONE: {"ok": "started consuming from 'only'"}}
    assert "only" in consumed(fleet, ONE)
    assert "only" not in consumed(fleet, TWO)
    assert fleet.tell("cancel_consumer", "only", to=[ONE]) == {ONE: {"ok": "no longer consuming from only"}}


def test_what_waits_in_the_queue_runs_at_once(fleet):
    fleet.send("proj.record", "early", queue="waiting")
    fleet.tell("add_consumer", "waiting", to=[TWO])
    fleet.ran("early")


@pytest.mark.acceptance(152, 159, 160)
def test_a_queue_is_described_in_full(fleet):
    options = {"queue_durable": False, "exchange_durable": False}
    replies = fleet.tell(
        "add_consumer", "baz", exchange="media", exchange_type="topic", routing_key="media.*", options=options
    )
    assert set(replies) == {ONE, TWO}
    queue = consumed(fleet)["baz"]
    assert (queue["durable"], queue["routing_key"]) == (False, "media.*")
    assert queue["exchange"] == {
        "name": "media",
        "type": "topic",
        "durable": False,
        "auto_delete": False,
        "delivery_mode": None,
        "arguments": None,
        "passive": False,
        "no_declare": False,
    }
    assert queue.keys() >= {
        "queue_arguments",
        "binding_arguments",
        "consumer_arguments",
        "exclusive",
        "auto_delete",
        "no_ack",
        "alias",
        "bindings",
        "no_declare",
        "expires",
        "message_ttl",
        "max_length",
        "max_length_bytes",
        "max_priority",
    }
    assert "baz" in {queue["name"] for queue in fleet.ours.control.inspect(ONE, timeout=20).active_queues()}
    fleet.send("proj.record", "by-topic", exchange="media", exchange_type="topic", routing_key="media.x")
    fleet.ran("by-topic")


def test_an_option_that_is_none_is_an_error(fleet):
    reply = fleet.tell("add_consumer", "odd", options={"durabel": True}, to=[ONE])[ONE]
    assert "has no key 'durabel'" in reply["error"]
    assert "odd" not in consumed(fleet)


def test_what_the_broker_refuses_is_an_error_and_the_worker_goes_on(fleet):
    fleet.tell("add_consumer", "one-kind", exchange="kinds", exchange_type="direct", to=[ONE])
    reply = fleet.tell("add_consumer", "other-kind", exchange="kinds", exchange_type="topic", to=[ONE])[ONE]
    if "redis" not in fleet.url:  # where exchanges have no type of their own
        assert "kinds" in reply["error"]
        assert "other-kind" not in consumed(fleet)
    fleet.send("proj.record", "after-refusal", queue="one-kind")
    fleet.ran("after-refusal")


@pytest.mark.acceptance(156, 157)
def test_a_cancelled_queue_keeps_its_messages_and_what_was_received_runs(fleet):
    fleet.tell("add_consumer", "bar")
    fleet.send("proj.sleeptask", 0.5, "slow", queue="bar")
    fleet.ran("start:slow")
    expected = {node: {"ok": "no longer consuming from bar"} for node in fleet.nodes}
    assert fleet.tell("cancel_consumer", "bar") == expected
    fleet.workers[ONE].wait_line("Canceling queue bar")
    fleet.send("proj.record", "left", queue="bar")
    fleet.ran("end:slow")
    # The workers take what comes after it in another queue, and leave this one.
    for number in range(4):
        fleet.send("proj.record", f"other{number}")
    for number in range(4):
        fleet.ran(f"other{number}")
    assert queues.waiting(fleet.url, "bar") == 1
    assert ledger.read(fleet.book)["left"] == 0
    fleet.tell("add_consumer", "bar", to=[TWO])
    fleet.ran("left")


def test_to_cancel_an_unknown_queue_changes_nothing_and_names_the_others(fleet):
    reply = fleet.tell("cancel_consumer", "nowhere", to=[ONE])[ONE]
    assert reply["ok"].startswith("not consuming from 'nowhere'")
    assert "celery" in reply["ok"]
    assert fleet.run("control", "cancel_consumer", "nowhere", "-d", ONE).returncode == 0


@pytest.mark.acceptance(147, 149, 154, 155)
def test_from_the_command_line(fleet):
    done = fleet.run("control", "add_consumer", "line", "-d", ONE)
    assert done.returncode == 0, done.stderr
    assert f"->  {ONE}: OK" in done.stdout
    assert "started consuming from 'line'" in done.stdout
    assert TWO not in done.stdout
    fleet.send("proj.record", "by-line", queue="line")
    fleet.ran("by-line")
    shown = json.loads(fleet.run("inspect", "active_queues", "-d", ONE, "--json").stdout)
    assert "line" in {queue["name"] for queue in shown[ONE]}
    done = fleet.run("control", "cancel_consumer", "line", "-d", ONE)
    assert "no longer consuming from line" in done.stdout
    assert "line" not in consumed(fleet)


@pytest.mark.acceptance(158)
def test_changes_outlive_the_connection(fleet):
    if fleet.url.startswith("sqlite"):
        pytest.skip("a file has no connections to cut")
    fleet.tell("add_consumer", "kept")
    fleet.tell("add_consumer", "gone")
    fleet.tell("cancel_consumer", "gone")
    fleet.cut()
    wait_for(lambda: fleet.ours.control.ping(timeout=0.5).nodes == set(fleet.nodes), 30, "remote control to be back")
    # What was revoked meanwhile is asked for.
    fleet.workers[ONE].wait_line("mingle: searching for neighbors", count=2)
    assert "kept" in consumed(fleet)
    assert "gone" not in consumed(fleet)
    fleet.send("proj.record", "after-cut", queue="kept")
    fleet.ran("after-cut")
    assert queues.waiting(fleet.url, "gone") == 0


def test_a_quiet_worker_takes_in_nothing_and_answers(fleet):
    control = fleet.ours.control
    fleet.send("proj.sleeptask", 0.3, "noise")
    fleet.ran("start:noise")
    assert control.quiet(reply=True, limit=2, timeout=20).nodes == {ONE, TWO}
    assert control.quiet([ONE], reply=True, timeout=20) == [{ONE: {"ok": "already quiet"}}]
    sent = [f"hushed{number}" for number in range(20)]
    for entry in sent:
        fleet.send("proj.record", entry)
    fleet.ran("end:noise")
    # All of them, also what the broker would push ahead to a consumer that does not read.
    wait_for(lambda: queues.waiting(fleet.url) == len(sent), 30, lambda: f"{queues.waiting(fleet.url)} wait")
    assert "celery" in consumed(fleet)
    if not fleet.url.startswith("sqlite"):
        # A worker that reads nothing may come to know of it when it resumes.
        fleet.cut(noticed=False)
        wait_for(lambda: control.ping(timeout=0.5).nodes == set(fleet.nodes), 30, "remote control to be back")
        assert queues.waiting(fleet.url) == len(sent)
    assert control.resume([TWO], reply=True, timeout=20) == [{TWO: {"ok": "resumed"}}]
    for entry in sent:
        fleet.ran(entry)
    assert control.resume(reply=True, limit=2, timeout=20).nodes == {ONE, TWO}
    assert control.resume([ONE], reply=True, timeout=20) == [{ONE: {"ok": "already receiving tasks"}}]
    assert all(ledger.read(fleet.book)[entry] == 1 for entry in sent)


@pytest.mark.acceptance(161)
def test_quorum_queues_are_declared_and_consumed(request, start_worker, client, celery_client, amqp_url, ledger_path):
    conf = {
        "task_queues": {"solid": {"queue_arguments": {"x-queue-type": "quorum"}}},
        "task_default_queue": "solid",
        "task_create_missing_queue_type": "quorum",
    }
    worker = start_worker("-P", "threads", "-c", "2", broker=amqp_url, conf=conf, ledger=ledger_path)
    app = celery_client(amqp_url)
    control = {"destination": [worker.node], "reply": True, "timeout": 20}
    app.control.add_consumer("added", **control)
    app.control.add_consumer("plain", options={"queue_arguments": {"x-queue-type": "classic"}}, **control)
    with request.getfixturevalue("rabbit_server").connect(amqp_url.rpartition("/")[2]) as connection:
        # To declare a queue as it is does nothing; as another kind it is an error.
        for name, kind in (("solid", "quorum"), ("added", "quorum"), ("plain", "classic")):
            connection.channel().queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": kind})
    ours = client(amqp_url, **conf)
    for name in ("solid", "added"):
        ours.tasks["proj.record"].apply_async((name,), queue=name)
    wait_for(lambda: ledger.size(ledger_path) == 2, 20, lambda: worker.output[-2000:])
    queues_now = app.control.inspect([worker.node], timeout=20).active_queues()[worker.node]
    assert {queue["name"]: (queue["queue_arguments"] or {}).get("x-queue-type") for queue in queues_now} == {
        "solid": "quorum",
        "added": "quorum",
        "plain": "classic",
    }
