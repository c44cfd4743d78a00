"""What a call carries: its times, properties and encoding, and what a retry keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from framework import App, Task, chain
from framework.client.request import Context, pop_request, push_request
from framework.exceptions import Retry
from framework.message import Incoming, Outgoing
from framework.wire.serialization import decode_message

Sent = list[Outgoing]


@pytest.fixture
def app() -> Iterator[App]:
    app = App("proj", broker="memory://", backend="none://", accept_content=["json", "pickle", "yaml", "msgpack"])
    yield app
    app.close()


@pytest.fixture
def add(app: App) -> Task[..., Any]:
    @app.task(bind=True)
    def add(self: Any, x: Any, y: Any = 0, *, z: Any = 0) -> Any:
        return x + y + z

    return add


@pytest.fixture
def sent(app: App) -> Sent:
    messages: Sent = []

    def publish(new: Any, *_rest: Any) -> None:
        messages.extend(new)

    app.publisher.publish = publish  # type: ignore[method-assign]
    return messages


def as_incoming(message: Outgoing) -> Incoming:
    properties = {"delivery_info": {"exchange": message.exchange, "routing_key": message.routing_key}}
    return Incoming(message.headers, properties, message.content_type, message.content_encoding, message.body)


def retry(task: Task[..., Any], message: Outgoing, **options: Any) -> None:
    """Have `task` retry itself while it runs for `message`."""
    incoming = as_incoming(message)
    args, kwargs, embed = decode_message(incoming, accept=["json", "pickle", "yaml", "msgpack"])
    token = push_request(Context.from_incoming(incoming, task.app, list(args), kwargs, embed))
    try:
        with pytest.raises(Retry):
            task.retry(**options)
    finally:
        pop_request(token)


# ------------------------------------------------------------ times


@pytest.mark.parametrize("option", ["eta", "expires"])
@pytest.mark.parametrize("given", ["2030-01-01T12:00:00", datetime(2030, 1, 1, 12)])
def test_a_time_without_a_zone_is_in_that_of_the_settings(app, add, sent, option, given):
    app.conf.timezone = "Europe/Vienna"
    app.publisher.publish = lambda messages, *_: sent.extend(messages)
    add.apply_async((1,), **{option: given})
    add.s(1).set(**{option: given}).delay()
    assert [message.headers[option] for message in sent] == ["2030-01-01T12:00:00+01:00"] * 2


@pytest.mark.parametrize("option", ["eta", "expires"])
@pytest.mark.parametrize("zone", ["+00:00", "-05:00", "Z"])
def test_a_time_keeps_its_zone(app, add, sent, option, zone):
    app.conf.timezone = "Europe/Vienna"
    app.publisher.publish = lambda messages, *_: sent.extend(messages)
    add.apply_async((1,), **{option: f"2030-07-01T12:00:00{zone}"})
    assert sent[0].headers[option] == f"2030-07-01T12:00:00{zone.replace('Z', '+00:00')}"


@pytest.mark.parametrize("given", [5, 5.5, timedelta(hours=1), datetime(9999, 12, 31, tzinfo=UTC), "2100-01-01"])
def test_the_header_alone_says_when_a_task_expires(add, sent, given):
    """A broker that drops a message tells nobody: who waits for the task would wait for ever."""
    add.apply_async((1,), expires=given)
    assert sent[0].expiration is None
    assert datetime.fromisoformat(sent[0].headers["expires"]) > datetime.now(UTC)


# ------------------------------------------------------------ properties


def test_properties_are_carried(add, sent):
    own = {"app_id": "shop", "user_id": "guest", "message_id": "m1", "type": "call", "timestamp": 5, "trace": "t"}
    add.apply_async((1,), **own, properties={"cluster_id": "c"}, stamped_headers=["stamp"], stamp="s", queue="media")
    assert sent[0].properties == {**own, "cluster_id": "c"}
    add.apply_async((1,), expiration=2.5)
    assert (sent[1].properties, sent[1].expiration) == (None, 2500)
    add.delay(1)
    assert sent[2].properties is None


# ------------------------------------------------------------ retries


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "lzma"])
def test_a_retry_keeps_serializer_and_compression(add, sent, serializer, compression):
    value = {1: "a"} if serializer in ("pickle", "yaml") else {"1": "a"}
    add.apply_async((value,), serializer=serializer, compression=compression)
    retry(add, sent[0])
    assert sent[1].content_type == sent[0].content_type
    assert sent[1].content_encoding == sent[0].content_encoding
    assert sent[1].headers.get("compression") == sent[0].headers.get("compression")
    incoming = as_incoming(sent[1])
    assert decode_message(incoming, accept=[serializer])[0] in ([value], (value,))


def test_a_retry_may_choose_another_serializer(add, sent):
    add.apply_async((1,), serializer="yaml", compression="gzip")
    retry(add, sent[0], serializer="json")
    assert sent[1].content_type == "application/json"


@pytest.mark.parametrize(
    ("args", "kwargs", "changes", "expected"),
    [
        ((), {"x": 1, "y": 2}, {"args": (5,)}, ([5], {"y": 2})),
        ((), {"x": 1, "y": 2}, {"args": (5, 6)}, ([5, 6], {})),
        ((), {"x": 1, "z": 3}, {"args": (5,)}, ([5], {"z": 3})),
        ((1, 2), {}, {"kwargs": {"x": 5}}, ([5, 2], {})),
        ((1, 2), {}, {"kwargs": {"y": 5}}, ([1, 5], {})),
        ((1,), {"z": 3}, {"kwargs": {"x": 5, "y": 6}}, ([5], {"y": 6})),
        ((1, 2), {"z": 3}, {"kwargs": {"z": 5}}, ([1, 2], {"z": 5})),
        ((1, 2), {"z": 3}, {"args": (7,), "kwargs": {"y": 8}}, ([7], {"y": 8})),
        ((1, 2), {"z": 3}, {}, ([1, 2], {"z": 3})),
    ],
)
def test_new_arguments_of_a_retry_replace_what_they_name(add, sent, args, kwargs, changes, expected):
    add.apply_async(args, kwargs)
    retry(add, sent[0], **changes)
    found = decode_message(as_incoming(sent[1]))
    assert (list(found[0]), found[1]) == expected


def test_a_retry_keeps_the_limits_of_another_program(add, sent):
    add.apply_async((1,))
    sent[0].headers["timelimit"] = [5, 6]  # a soft limit above the hard one
    retry(add, sent[0])
    assert sent[1].headers["timelimit"] == [5, 6]


# ------------------------------------------------------------ signatures


def test_the_parts_of_a_signature_can_be_set(add):
    one = add.s(1, y=2)
    one.args, one.kwargs, one.options = [3], {"y": 4}, {"queue": "media"}
    assert (one.args, one.kwargs, one.options) == ((3,), {"y": 4}, {"queue": "media"})
    assert one == add.s(3, y=4).set(queue="media")
    one.args = one.kwargs = one.options = None
    assert (one.args, one.kwargs, one.options) == ((), {}, {})
    both = chain(add.s(1), add.s(2))
    both.options = {"queue": "media"}
    assert both.options == {"queue": "media"}


# ------------------------------------------------------------ eager


def test_eager_arguments_and_results_are_those_of_a_worker(app):
    app.conf.task_always_eager = True
    seen: list[Any] = []

    @app.task
    def keep(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return (1, {2: 3})

    assert keep.delay((1, 2), key={3: 4}).get() == [1, {"2": 3}]
    assert seen == [(([1, 2],), {"key": {"3": 4}})]
    assert app.send_task(keep.name, ((5,),)).get() == [1, {"2": 3}]
    assert [result.get() for result in app.send_many(keep, [[(6,)]])] == [[1, {"2": 3}]]
    assert seen[1:] == [(([5],), {}), (([6],), {})]
    assert keep.apply_async(((7,),), serializer="pickle").get() == [1, {"2": 3}]
    assert seen[3] == (((7,),), {})


def test_what_cannot_be_sent_fails_eagerly_too(app):
    app.conf.task_always_eager = True

    @app.task
    def give(wrong: bool = False) -> Any:
        return object() if wrong else 1

    with pytest.raises(TypeError, match="cannot be encoded as JSON"):
        give.delay(object())
    failed = give.delay(True)
    assert failed.state == "FAILURE"
    with pytest.raises(TypeError, match="cannot be encoded as JSON"):
        failed.get()
    assert give.apply(args=()).get() == 1


def test_an_eager_run_calls_the_class_of_the_task(app):
    app.conf.task_always_eager = True
    calls: list[Any] = []

    class Noted(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append((args, self.request.id))
            return super().__call__(*args, **kwargs)

    @app.task(base=Noted, bind=True, max_retries=2)
    def add(self: Any, x: int) -> Any:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return [self.request.id, x]

    result = add.delay(1)
    assert result.get() == [result.id, 1]
    assert calls == [((1,), result.id)] * 2


def test_an_unknown_name_is_refused_eagerly(app):
    app.conf.task_always_eager = True
    with pytest.raises(KeyError, match=r"proj\.nobody"):
        app.send_task("proj.nobody")


def test_a_retry_without_a_message_is_a_failure_eagerly(app):
    @app.task
    def by_hand() -> None:
        raise Retry("later")

    assert by_hand.apply().state == "FAILURE"
