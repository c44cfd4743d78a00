"""Error callbacks: which are called with request, error and traceback, and which are sent as tasks with the id."""

from __future__ import annotations

import logging

import pytest

from framework import App, Task
from framework.client.canvas.errbacks import call_errbacks
from framework.client.request import Context
from framework.message import read
from framework.wire.serialization import decode_task

called: list[tuple] = []


def only_id(task_id):
    called.append((task_id,))


def with_label(task_id, label):
    called.append((task_id, label))


def with_default(task_id, label="none"):
    called.append((task_id, label))


def with_keyword(task_id, *, label="none"):
    called.append((task_id, label))


def three(request, exc, tb):
    called.append((request, exc, tb))


def three_and_label(request, exc, tb, label):
    called.append((request, exc, tb, label))


def anything(*args, **kwargs):
    called.append((*args, *kwargs.values()))


def self_and_id(self, task_id):
    called.append((task_id,))


def self_and_label(self, task_id, label="none"):
    called.append((task_id, label))


def self_and_anything(self, *args):
    called.append(args)


def self_and_three(self, request, exc, tb):
    called.append((request, exc, tb))


SENT, CALLED = "sent", "called"
#: Function, whether it is bound, arguments of the signature, what is done, arguments after the id or the three.
CASES = {
    "id": (only_id, False, (), {}, SENT, []),
    "id and label": (with_label, False, ("x",), {}, SENT, ["x"]),
    "id and named label": (with_label, False, (), {"label": "x"}, SENT, []),
    "id and default": (with_default, False, (), {}, SENT, []),
    "id and label instead of default": (with_default, False, ("x",), {}, SENT, ["x"]),
    "id and keyword": (with_keyword, False, (), {"label": "x"}, SENT, []),
    "three": (three, False, (), {}, CALLED, []),
    "three and label": (three_and_label, False, ("x",), {}, CALLED, ["x"]),
    "three and named label": (three_and_label, False, (), {"label": "x"}, CALLED, ["x"]),
    "anything": (anything, False, (), {}, CALLED, []),
    "anything and label": (anything, False, ("x",), {}, CALLED, ["x"]),
    "bound id": (self_and_id, True, (), {}, SENT, []),
    "bound id and default": (self_and_label, True, (), {}, SENT, []),
    "bound id and label": (self_and_label, True, ("x",), {}, SENT, ["x"]),
    "bound anything": (self_and_anything, True, (), {}, SENT, []),
    "bound anything and label": (self_and_anything, True, ("x",), {}, SENT, ["x"]),
    "bound three": (self_and_three, True, (), {}, CALLED, []),
}


@pytest.fixture
def app():
    called.clear()
    app = App("proj", broker="memory://", backend="none://")
    sent_to(app)
    yield app
    app.close()


def sent_to(app):
    """Return name and arguments of all messages that were sent."""
    consumer = app.transport.consumer()
    try:
        consumer.add_queue(app.queue_for("celery"))
        payloads = [delivery.payload for delivery in consumer.fetch(100) if not delivery.ack()]
    finally:
        consumer.close(requeue=True)
    messages = [read(payload) for payload in payloads]
    return [(message.headers["task"], *decode_task(message, accept=["json"])[:2]) for message in messages]


def fail(app, *errbacks):
    request = Context({"id": "failed", "task": "t"}, [], {}, {"errbacks": list(errbacks)}, app=app)
    error = ValueError("broken")
    call_errbacks(app, request, error, "trace")
    return request, error, "trace"


@pytest.mark.parametrize("autoretry", [False, True], ids=["plain", "autoretry"])
@pytest.mark.parametrize("case", CASES)
def test_stored_arguments_count_and_bound_ones_are_sent(app, case, autoretry):
    function, bind, args, kwargs, end, rest = CASES[case]
    options = {"autoretry_for": (OSError,)} if autoretry else {}
    task = app.task(function, name="errback", bind=bind, **options)
    given = fail(app, task.s(*args, **kwargs))
    if end == CALLED:
        assert called == [(*given, *rest)]
        assert sent_to(app) == []
    else:
        assert called == []
        assert sent_to(app) == [("errback", ["failed", *rest], kwargs)]


def test_a_class_based_one_is_sent(app):
    class Errback(Task):
        name = "errback"

        def run(self, *args):
            called.append(args)

    fail(app, app.register_task(Errback()).s())
    assert (called, sent_to(app)) == ([], [("errback", ["failed"], {})])


def test_an_immutable_one_gets_its_own_arguments_alone(app):
    fail(app, app.task(with_label, name="two").si("a", "b"), app.task(only_id, name="one").si("a"))
    assert (called, sent_to(app)) == ([("a", "b")], [("one", ["a"], {})])


def test_one_that_cannot_be_called_does_not_stop_the_others(app, caplog):
    with caplog.at_level(logging.ERROR):
        fail(app, app.task(with_label, name="two").s("a", "b", "c"), app.task(only_id, name="one").s())
    assert "The error callback two of task t[failed] failed" in caplog.text
    assert sent_to(app) == [("one", ["failed"], {})]
