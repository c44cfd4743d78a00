"""The worker's dispatcher of events, on a real loop and a real broker inside the process."""

from __future__ import annotations

import json
import logging
import threading
from types import SimpleNamespace

import pytest

from framework._boot.loop import EventLoop
from framework._config.settings import EventSettings
from framework.api.pool import FAILURE, IGNORED, INVALID, RETRY, SUCCESS, TERMINATED, Outcome
from framework.api.transport import Exchange, Queue
from framework.client.after_end import Action
from framework.message import read
from framework.worker.steps.control.connection import ControlConnection
from framework.worker.steps.events import dispatcher
from framework.worker.steps.events.dispatcher import EventDispatcher
from framework.worker.steps.events.heartbeat import Heartbeat
from framework_transports.memory import MemoryTransport
from support.wait import wait_for


@pytest.fixture
def bench():
    """A dispatcher whose loop turns in a thread, and a mailbox that hears what it sends."""
    transport = MemoryTransport("memory://events", MemoryTransport.options_type(), {})
    ears = transport.mailbox()
    ears.subscribe(Queue(name="ears", exchange=Exchange("celeryev", "topic"), routing_key="#"))
    loop = EventLoop()
    line = ControlConnection(loop, transport)
    listeners = [SimpleNamespace(events=None), SimpleNamespace(events=None)]
    dispatcher = EventDispatcher(loop, line, "w1@here", EventSettings(), listeners)
    heard = []

    def listen():
        for _exchange, payload in ears.receive():
            incoming = read(payload)
            body = json.loads(incoming.body)
            key = incoming.properties["delivery_info"]["routing_key"]
            heard.append((key, incoming.headers, body))
        return heard

    thread = threading.Thread(target=loop.run)
    thread.start()
    yield SimpleNamespace(loop=loop, line=line, dispatcher=dispatcher, listeners=listeners, listen=listen)
    loop.call_soon_threadsafe(line.close)
    loop.stop()
    thread.join(5)
    loop.close()
    ears.close()
    transport.close()


def item(task_id="t1", *, send_events=True):
    return SimpleNamespace(task_id=task_id, started=5.0, policy=SimpleNamespace(send_events=send_events))


def outcome(code, note="", traceback="", runtime=0.5):
    return Outcome(1, code, runtime, None, note, traceback)


def all_events(heard):
    return [event for _key, _headers, body in heard for event in (body if isinstance(body, list) else [body])]


def test_task_events_of_one_turn_travel_together(bench):
    def work():
        tasks = bench.listeners[0].events
        for number in range(3):
            tasks.started(item(f"t{number}"))
            tasks.finished(item(f"t{number}"), outcome(SUCCESS, "42"), Action.ACK)

    bench.dispatcher.enable()
    bench.loop.call_soon_threadsafe(bench.line.start)
    bench.loop.call_soon_threadsafe(work)
    [(key, headers, body)] = wait_for(bench.listen, 5)
    assert key == "task.multi"
    assert headers == {"hostname": "w1@here"}
    assert [event["type"] for event in body] == ["task-started", "task-succeeded"] * 3
    assert [event["clock"] for event in body] == [1, 2, 3, 4, 5, 6]
    assert body[0]["timestamp"] == 5.0
    assert body[1]["result"] == "42"
    assert body[1]["runtime"] == 0.5
    assert set(body[0]) == {"type", "hostname", "utcoffset", "pid", "clock", "timestamp", "uuid"}


def test_a_single_event_has_its_own_routing_key_and_comes_after_what_waits(bench):
    def work():
        bench.listeners[0].events.started(item())
        bench.dispatcher.send("disk-nearly-full", percent=97)

    bench.dispatcher.enable()
    bench.loop.call_soon_threadsafe(bench.line.start)
    bench.loop.call_soon_threadsafe(work)
    wait_for(lambda: len(bench.listen()) == 2, 5)
    (first, _, _), (second, _, event) = bench.listen()
    assert (first, second) == ("task.multi", "disk.nearly.full")
    assert event["percent"] == 97
    assert event["hostname"] == "w1@here"


@pytest.mark.parametrize(
    ("code", "note", "traceback", "action", "wanted"),
    [
        (SUCCESS, "1", "", Action.ACK, {"type": "task-succeeded", "result": "1"}),
        (FAILURE, "E()", "tb", Action.ACK, {"type": "task-failed", "exception": "E()", "traceback": "tb"}),
        (RETRY, "E()", "tb", Action.ACK, {"type": "task-retried", "exception": "E()", "traceback": "tb"}),
        (FAILURE, "E()", "tb", Action.REQUEUE, {"type": "task-rejected", "requeue": True}),
        (INVALID, "x", "", Action.ACK, {"type": "task-rejected", "requeue": False}),
        (
            TERMINATED,
            "",
            "SIGKILL",
            Action.ACK,
            {"type": "task-revoked", "terminated": True, "signum": "SIGKILL", "expired": False},
        ),
    ],
)
def test_every_end_has_its_event(bench, code, note, traceback, action, wanted):
    def work():
        bench.listeners[0].events.finished(item(), outcome(code, note, traceback), action)

    bench.dispatcher.enable()
    bench.loop.call_soon_threadsafe(bench.line.start)
    bench.loop.call_soon_threadsafe(work)
    [event] = all_events(wait_for(bench.listen, 5))
    assert wanted.items() <= event.items()


def test_long_texts_are_cut(bench):
    def work():
        told = outcome(FAILURE, "E" * 100_000, "first" + "x" * 100_000 + "last")
        bench.listeners[0].events.finished(item(), told, Action.ACK)

    bench.dispatcher.enable()
    bench.loop.call_soon_threadsafe(bench.line.start)
    bench.loop.call_soon_threadsafe(work)
    [event] = all_events(wait_for(bench.listen, 5))
    assert len(event["exception"]) == len(event["traceback"]) == 16_384 + 3
    assert event["exception"].endswith("...")
    assert event["traceback"].endswith("last")


def test_a_task_that_wants_no_events_has_none(bench):
    def work():
        tasks = bench.listeners[0].events
        quiet = item("quiet", send_events=False)
        tasks.started(quiet)
        tasks.finished(quiet, outcome(SUCCESS), Action.ACK)
        tasks.discarded(quiet, expired=True)
        tasks.cancelled(quiet)
        tasks.finished(item("ignored"), outcome(IGNORED), Action.ACK)
        tasks.discarded(item("told"), expired=True)

    bench.dispatcher.enable()
    bench.loop.call_soon_threadsafe(bench.line.start)
    bench.loop.call_soon_threadsafe(work)
    [event] = all_events(wait_for(bench.listen, 5))
    assert (event["uuid"], event["expired"]) == ("told", True)


def test_switching_says_whether_anything_changed(bench):
    dispatcher = bench.dispatcher
    assert not dispatcher.task_events
    assert not dispatcher.disable()
    assert dispatcher.enable()
    assert not dispatcher.enable()
    assert dispatcher.task_events
    assert all(listener.events is not None for listener in bench.listeners)
    assert dispatcher.disable()
    assert all(listener.events is None for listener in bench.listeners)


def test_an_event_that_cannot_be_encoded_does_not_take_others_along(bench, caplog):
    def work():
        tasks = bench.listeners[0].events
        tasks.started(item("good"))
        tasks.finished(item("bad"), outcome(FAILURE, "E()", "half a pair: \ud800"), Action.ACK)
        tasks.started(item("good too"))

    bench.dispatcher.enable()
    bench.loop.call_soon_threadsafe(bench.line.start)
    bench.loop.call_soon_threadsafe(work)
    found = all_events(wait_for(bench.listen, 5))
    assert [event["uuid"] for event in found] == ["good", "good too"]
    assert "An event of task bad cannot be encoded" in caplog.text


def test_without_a_connection_the_newest_are_kept_and_the_loss_is_told_once(bench, caplog, monkeypatch):
    monkeypatch.setattr(dispatcher, "KEPT", 300)
    more = 25
    done = threading.Event()

    def work():
        tasks = bench.listeners[0].events
        for number in range(dispatcher.KEPT + more):
            tasks.started(item(f"t{number}"))
        done.set()

    bench.dispatcher.enable()
    bench.loop.call_soon_threadsafe(work)
    assert done.wait(10)
    assert bench.listen() == []
    bench.loop.call_soon_threadsafe(bench.line.notify, bench.dispatcher.flush)
    with caplog.at_level(logging.WARNING):
        bench.loop.call_soon_threadsafe(bench.line.start)
        wait_for(lambda: len(all_events(bench.listen())) >= dispatcher.KEPT, 5)
        wait_for(lambda: "were dropped" in caplog.text, 5)
    found = [event["uuid"] for event in all_events(bench.listen())]
    assert found == [f"t{number}" for number in range(more, dispatcher.KEPT + more)]
    assert [line for line in caplog.messages if "dropped" in line] == [
        f"{more} task events were dropped, because the broker was unreachable or did not accept them"
    ]


def test_the_heart_says_hello_beats_and_says_goodbye(bench):
    settle = SimpleNamespace(running={1: item(), 2: SimpleNamespace(started=0.0)}, total={"a": 3, "b": 4})
    heart = Heartbeat(bench.loop, bench.dispatcher, settle, 0.02)
    bench.loop.call_soon_threadsafe(bench.line.notify, heart.online)
    bench.loop.call_soon_threadsafe(bench.line.start)
    wait_for(lambda: len(bench.listen()) >= 3, 5)
    bench.loop.call_soon_threadsafe(heart.stop)
    found = wait_for(lambda: (seen := all_events(bench.listen()))[-1]["type"] == "worker-offline" and seen, 5)
    assert [event["type"] for event in found[:2]] == ["worker-online", "worker-heartbeat"]
    assert found[0]["active"] == 1
    assert found[0]["processed"] == 7
    assert found[0]["freq"] == 0.02
    assert len(found[0]["loadavg"]) == 3
    assert {"sw_ident", "sw_ver", "sw_sys"} <= found[0].keys()
