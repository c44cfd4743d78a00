"""What our client puts on a queue, field by field against what the real Celery client puts there for the same call."""

from __future__ import annotations

import base64
import json
import re
import uuid
import zlib
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import redis

ID = "11111111-2222-4333-8444-555555555555"
WHEN = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def take(url):
    """Return all messages as ``(list key, envelope)``, bodies decoded, oldest first."""
    found = []
    with redis.Redis.from_url(url) as client:
        for key in [key for key in client.scan_iter() if client.type(key) == b"list"]:
            while (raw := client.rpop(key)) is not None:
                envelope = json.loads(raw)
                body = base64.b64decode(envelope["body"])
                if "compression" in envelope["headers"]:
                    body = zlib.decompress(body)
                envelope["body"] = json.loads(body)
                found.append((key, envelope))
    return found


def normalised(message):
    """Blank what must differ: random ids, the sender, moments counted from now."""
    key, envelope = message
    envelope = json.loads(json.dumps(envelope))
    properties = envelope["properties"]
    assert uuid.UUID(properties.pop("delivery_tag")).version == 4
    assert re.fullmatch(r"gen\d+@.+", envelope["headers"].pop("origin"))
    text = json.dumps(envelope)
    for reply_to in {properties.get("reply_to")} - {None}:
        text = text.replace(reply_to, "REPLY")
    text = re.sub(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", moment, text)
    return key, json.loads(text)


def moment(match):
    return match[0] if match[0].startswith("2031") else "SOON"


@pytest.fixture
def apps(redis_url, client, celery_client):
    """Our client and Celery's, on the same empty database."""
    return client(redis_url, redis_url), celery_client(redis_url, redis_url)


def compare(url, apps, call):
    messages = []
    for app in apps:
        call(app)
        messages.append([normalised(message) for message in take(url)])
    ours, theirs = messages
    assert theirs, "Celery sent nothing"
    assert len(ours) == len(theirs)
    for (our_key, our), (their_key, their) in zip(ours, theirs, strict=True):
        assert our_key == their_key
        assert our["headers"] == their["headers"]
        # Ours are discarded by a worker, which says so, and not by the broker.
        their["properties"].pop("expiration", None)
        assert our["properties"] == their["properties"]
        assert our == their
    assert [list(our["headers"]) for _, our in ours] == [list(their["headers"]) for _, their in theirs]


def stamped(signature):
    signature.stamp(mon="abc")
    return signature


CALLS = {
    "plain": lambda app: app.tasks["proj.add"].apply_async((1, 2), task_id=ID),
    "list and keywords": lambda app: app.tasks["proj.echo"].apply_async([1, "a"], {"b": None}, task_id=ID),
    "ignored": lambda app: app.tasks["proj.noop"].apply_async(task_id=ID),
    "no result wanted": lambda app: app.tasks["proj.add"].apply_async((1, 2), task_id=ID, ignore_result=True),
    "by name": lambda app: app.send_task("other.task", (1,), {"x": 2}, task_id=ID),
    "options": lambda app: app.tasks["proj.add"].apply_async(
        (1, 2),
        task_id=ID,
        countdown=30,
        expires=60,
        priority=5,
        time_limit=20,
        soft_time_limit=10,
        shadow="shadowed",
        headers={"x": 1},
    ),
    "eta and moment of expiry": lambda app: app.tasks["proj.add"].apply_async((1, 2), task_id=ID, eta=WHEN),
    "compressed": lambda app: app.tasks["proj.echo"].apply_async(("x" * 500,), task_id=ID, compression="gzip"),
    "long arguments": lambda app: app.tasks["proj.echo"].apply_async((["y" * 99] * 99,), task_id=ID),
    "typed": lambda app: app.tasks["proj.echo"].apply_async(
        (WHEN, WHEN.date(), WHEN.time(), Decimal("1.10"), uuid.UUID(ID), b"text"), task_id=ID
    ),
    "links": lambda app: app.tasks["proj.add"].apply_async(
        (1, 2), task_id=ID, link=app.tasks["proj.add"].s(1), link_error=app.tasks["proj.fail"].si()
    ),
    "queue": lambda app: app.tasks["proj.add"].apply_async((1, 2), task_id=ID, queue="media"),
    "transient": lambda app: app.tasks["proj.add"].apply_async((1, 2), task_id=ID, delivery_mode=1),
    "retry-like": lambda app: app.tasks["proj.add"].apply_async(
        (1, 2), task_id=ID, retries=2, root_id="r", parent_id="p"
    ),
    "stamped": lambda app: stamped(app.tasks["proj.add"].s(1, 2)).apply_async(task_id=ID),
    "stamped by options": lambda app: app.tasks["proj.add"].apply_async(
        (1, 2), task_id=ID, stamped_headers=["mon"], mon="abc"
    ),
    "group member": lambda app: app.tasks["proj.add"].apply_async((1, 2), task_id=ID, group_id="g", group_index=1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_message_of_a_call_is_that_of_celery(name, redis_url, apps):
    compare(redis_url, apps, CALLS[name])


def test_a_bulk_send_makes_the_messages_of_single_calls(redis_url, apps):
    ours, _ = apps
    ours.send_many(ours.tasks["proj.add"], [(1, 2), (3, 4)])
    bulk = take(redis_url)
    for args in ((1, 2), (3, 4)):
        ours.tasks["proj.add"].delay(*args)
    single = take(redis_url)

    def blank(messages):
        text = json.dumps([[repr(key), envelope] for key, envelope in map(normalised, messages)])
        return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", "ID", text)

    assert blank(bulk) == blank(single)
    assert len({envelope["headers"]["id"] for _, envelope in bulk}) == 2


def test_the_message_of_a_chain_is_that_of_celery(redis_url, apps):
    def call(app):
        add = app.tasks["proj.add"]
        result = (add.s(1, 2).set(task_id=ID) | add.s(4).set(task_id="T2") | add.s(8).set(task_id="T3")).apply_async()
        assert result.id == "T3"
        assert result.parent.id == "T2"

    compare(redis_url, apps, call)


def test_celery_reads_our_group(redis_url, apps):
    from framework import group

    ours, _ = apps
    add = ours.tasks["proj.add"]
    result = group(add.s(1, 1), add.s(2, 2)).apply_async()
    headers = [envelope["headers"] for _, envelope in take(redis_url)]
    assert [one["group"] for one in headers] == [result.id] * 2
    assert [one["group_index"] for one in headers] == [0, 1]
    assert [one["id"] for one in headers] == [one.id for one in result]


def test_protocol_1_is_that_of_celery(redis_url, client, celery_client):
    def call(app):
        app.tasks["proj.add"].apply_async((1, 2), task_id=ID)

    both = []
    for make in (client, celery_client):
        call(make(redis_url, None, task_protocol=1))
        ((_key, envelope),) = take(redis_url)
        both.append((envelope["headers"], envelope["body"]))
    assert both[0] == both[1]


def test_bytes_that_are_no_text_travel_as_celery_sends_them(redis_url, apps):
    bodies = []
    for app in apps:
        app.tasks["proj.echo"].apply_async((b"\xff\x00",), task_id=ID)
        bodies.append(take(redis_url)[0][1]["body"])
    assert bodies[0] == bodies[1]


def test_an_eta_without_a_zone_means_the_moment_that_celery_means(redis_url, apps):
    moments = []
    for app in apps:
        app.tasks["proj.add"].apply_async((1, 2), eta=WHEN.replace(tzinfo=None))
        eta = datetime.fromisoformat(take(redis_url)[0][1]["headers"]["eta"])
        # A receiver takes a time without a zone as UTC; ours says so.
        moments.append(eta if eta.tzinfo else eta.replace(tzinfo=UTC))
    assert moments == [WHEN, WHEN]
