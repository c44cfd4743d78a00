"""The client's side of events: what a state makes of them, dumped lines, snapshots, receivers."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from framework.client.events import Polaroid, State
from framework.client.events.dumper import Dumper
from framework.exceptions import ConfigError
from framework.message import Outgoing
from support.wait import wait_for


def event(kind, uuid=None, **fields):
    made = {"type": kind, "hostname": "w1@here", "timestamp": 10.0, "clock": 1, "pid": 7, **fields}
    return made if uuid is None else {**made, "uuid": uuid}


def told(*events):
    state = State()
    for each in events:
        state.event(each)
    return state


# ---------------------------------------------------------------- state


def test_a_task_from_its_sending_to_its_end():
    state = told(
        event("task-sent", "t", hostname="gen1@there", name="add", queue="q", args="(1,)", kwargs="{}"),
        event("task-received", "t", name="add", retries=0, timestamp=11.0),
        event("task-started", "t", timestamp=12.0),
        event("task-succeeded", "t", result="3", runtime=0.25, timestamp=13.0),
    )
    task = state.tasks["t"]
    assert (task.state, task.result, task.runtime, task.ready) == ("SUCCESS", "3", 0.25, True)
    assert (task.client, task.worker, task.queue, task.name) == ("gen1@there", "w1@here", "q", "add")
    assert (task.sent, task.received, task.started, task.succeeded) == (10.0, 11.0, 12.0, 13.0)
    assert task.info()["args"] == "(1,)"
    assert "traceback" not in task.info()


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        (["started", "received"], "STARTED"),
        (["succeeded", "started", "received", "sent"], "SUCCESS"),
        (["received", "started", "retried", "received"], "RECEIVED"),
        (["started", "retried", "started", "succeeded"], "SUCCESS"),
        # The retry that was overtaken by what came of it.
        (["started", "succeeded", "retried"], "SUCCESS"),
        (["received", "rejected", "received"], "RECEIVED"),
        (["started", "failed", "revoked"], "REVOKED"),
        (["started", "cancelled", "started"], "STARTED"),
    ],
)
def test_events_out_of_order(kinds, wanted):
    assert told(*(event(f"task-{kind}", "t") for kind in kinds)).tasks["t"].state == wanted


def test_a_worker_lives_as_long_as_its_heart_beats():
    now = time.time()
    state = told(event("worker-heartbeat", freq=2.0, active=3, processed=9, local_received=now, loadavg=[1, 2, 3]))
    worker = state.workers["w1@here"]
    assert worker.alive
    assert (worker.status, worker.active, worker.processed, worker.loadavg) == ("ONLINE", 3, 9, (1, 2, 3))
    state.event(event("worker-heartbeat", freq=2.0, local_received=now - 4.1))
    assert not worker.alive
    state.event(event("worker-online", freq=2.0, local_received=now))
    assert state.alive_workers() == [worker]
    state.event(event("worker-offline", freq=2.0, local_received=now))
    assert state.alive_workers() == []


def test_memory_is_bounded_and_the_oldest_go():
    state = State(max_tasks_in_memory=3, max_workers_in_memory=2)
    for number in range(5):
        state.event(event("task-received", f"t{number}", name=f"n{number}"))
        state.event(event("worker-online", hostname=f"w{number}"))
    state.event(event("task-started", "t2"))
    state.event(event("task-received", "t9"))
    assert list(state.tasks) == ["t4", "t2", "t9"]
    assert list(state.workers) == ["w3", "w4"]
    assert state.event_count == 12
    assert state.counts["task-received"] == 6


def test_asking_for_tasks():
    state = told(
        event("task-received", "a", name="add"),
        event("task-received", "b", name="mul", hostname="w2@here"),
        event("task-succeeded", "c", name="add"),
    )
    assert [uuid for uuid, _ in state.tasks_by_time()] == ["c", "b", "a"]
    assert [uuid for uuid, _ in state.tasks_by_time(limit=2)] == ["c", "b"]
    assert [uuid for uuid, _ in state.tasks_by_type("add")] == ["c", "a"]
    assert [uuid for uuid, _ in state.tasks_by_worker("w2@here")] == ["b"]
    assert state.task_types() == ["add", "mul"]
    state.clear_tasks()
    assert list(state.tasks) == ["a", "b"]
    state.clear(ready=False)
    assert (list(state.tasks), state.event_count) == ([], 0)


@pytest.mark.parametrize("bad", [{}, {"type": 5}, {"type": "task-started"}, {"type": "worker-online", "hostname": 5}])
def test_what_is_no_event_changes_nothing(bad):
    state = told(bad)
    assert not state.tasks
    assert not state.workers


def test_the_callback_hears_every_event():
    heard = []
    state = State(callback=lambda state, each: heard.append((state.event_count, each["type"])))
    state.event(event("task-received", "t"))
    state.event(event("disk-full"))
    assert heard == [(1, "task-received"), (2, "disk-full")]


# ---------------------------------------------------------------- lines


def test_dumped_lines():
    dumper = Dumper()
    assert dumper.line(event("worker-online", freq=2.0)) == (
        "w1@here [1970-01-01 00:00:10+00:00] started: clock=1, freq=2.0, pid=7"
    )
    received = event("task-received", "t", name="add", args="(1,)", kwargs="{}", retries=0)
    assert dumper.line(received) == (
        "w1@here [1970-01-01 00:00:10+00:00] task received: add(t) args=(1,) kwargs={} clock=1, pid=7, retries=0"
    )
    assert dumper.line(event("task-started", "t")) == (
        "w1@here [1970-01-01 00:00:10+00:00] task started: add(t) args=(1,) kwargs={} clock=1, pid=7"
    )
    assert dumper.line({"type": "odd"}) == "? [?] odd "


def test_dumped_lines_are_lines():
    dumper = Dumper()
    line = dumper.line(event("task-received", "i" * 1000, name="a\nb\x1b[2J\u2028", args="x" * 100_000, kwargs="{}"))
    assert f"task received: a\\nb\\x1b[2J\\u2028({'i' * 255}...) args={'x' * 16_387}... kwargs={{}}" in line
    assert line.isprintable()
    assert dumper.line({"type": "odd\n", "hostname": "h\r", "x": "\x9b"}) == "h\\r [?] odd\\n: x=\\x9b"


# ---------------------------------------------------------------- snapshots


class Camera(Polaroid):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []
        self.cleaned = threading.Event()

    def on_shutter(self, state):
        self.seen.append(state.event_count)
        if len(self.seen) == 1:
            raise ValueError("one bad picture")

    def on_cleanup(self):
        self.cleaned.set()


def test_a_camera_takes_pictures_and_survives_a_bad_one(caplog):
    state = told(event("worker-online"))
    camera = Camera(state, freq=0.01, cleanup_freq=0.01)
    with camera:
        wait_for(lambda: len(camera.seen) >= 3, 5)
        assert camera.cleaned.wait(5)
        state.event(event("worker-heartbeat"))
    assert camera.seen[-1] == 2
    assert "one bad picture" in caplog.text


def test_a_camera_takes_no_more_pictures_than_allowed():
    camera = Camera(State(), freq=0.01, maxrate="1/h", cleanup_freq=0.01)
    with camera:
        assert camera.cleaned.wait(5)
        for _ in range(20):
            camera.capture()
    assert len(camera.seen) == 1


def test_a_camera_may_forget_what_it_has_seen():
    class Forgetful(Camera):
        clear_after = True

        def on_shutter(self, state):
            self.seen.append(len(state.workers))

    state = told(event("worker-online"))
    with Forgetful(state, freq=60) as camera:
        pass
    assert camera.seen == [1]
    assert not state.workers


def test_a_bad_rate_is_refused():
    with pytest.raises(ConfigError, match="maxrate must be a number with a unit"):
        Polaroid(State(), maxrate="10/x")


# ---------------------------------------------------------------- receivers


@pytest.fixture
def app(client, tmp_path):
    return client(f"sqlite:///{tmp_path}/broker.db")


def publish(app, body, key="task.multi"):
    mailbox = app.transport.mailbox()
    mailbox.send([Outgoing(body, {}, exchange="celeryev", exchange_type="topic", routing_key=key, delivery_mode=1)])
    mailbox.close()


def capture(app, handlers, send, **options):
    """Capture in a thread; `send` once the receiver listens."""
    with app.events.Receiver(handlers, **{k: options.pop(k) for k in ("routing_key",) if k in options}) as receiver:
        ready = threading.Event()
        receiver.on_connection = lambda error: ready.set()
        thread = threading.Thread(target=receiver.capture, kwargs={"timeout": 20, **options})
        thread.start()
        assert ready.wait(10)
        send()
        thread.join(30)
        assert not thread.is_alive()


def test_handlers_by_type_and_for_the_rest(app):
    one, rest = [], []
    capture(
        app,
        {"task-started": one.append, "*": rest.append},
        lambda: publish(app, b'[{"type": "task-started", "uuid": "a"}, {"type": "task-odd"}]'),
        limit=2,
    )
    assert [each["uuid"] for each in one] == ["a"]
    assert [each["type"] for each in rest] == ["task-odd"]
    assert abs(one[0]["local_received"] - time.time()) < 60


def test_a_routing_key_chooses(app):
    heard = []

    def send():
        publish(app, b'{"type": "worker-online"}', "worker.online")
        publish(app, b'{"type": "task-started"}', "task.started")

    capture(app, {"*": heard.append}, send, limit=1, routing_key="task.#")
    assert [each["type"] for each in heard] == ["task-started"]


def test_what_is_no_event_is_skipped(app, caplog):
    heard = []

    def send():
        for body in (b"{", b"[5, {}]", b'"text"', b'{"type": 7}', b'{"type": "worker-online"}'):
            publish(app, body)

    with caplog.at_level(logging.WARNING):
        capture(app, {"*": heard.append}, send, limit=1)
    assert [each["type"] for each in heard] == ["worker-online"]
    assert "Skipping" in caplog.text


def test_a_capture_ends_when_nothing_comes(app):
    with app.events.Receiver() as receiver:
        assert receiver.capture(timeout=0.05) == 0


def test_a_handler_may_stop_the_capture(app):
    heard = []
    with app.events.Receiver() as receiver:
        receiver.handlers["*"] = lambda each: (heard.append(each), receiver.stop())
        ready = threading.Event()
        receiver.on_connection = lambda error: ready.set()
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        assert ready.wait(10)
        publish(app, b'{"type": "worker-online"}')
        thread.join(10)
        assert not thread.is_alive()
    assert len(heard) == 1


def test_settings_that_exclude_each_other(client, tmp_path):
    app = client(f"sqlite:///{tmp_path}/broker.db", event_queue_durable=True)
    with pytest.raises(ConfigError, match="exclude each other"), app.events.Receiver() as receiver:
        receiver.capture(timeout=0)
