"""Which queues a worker consumes from (acceptance L 140-146), asked by a real Celery client."""

from __future__ import annotations

import pytest
from celery.utils import nodenames

from framework.client.routing import worker_direct
from framework.exceptions import PublishRefused
from support import ledger, queues, workers
from support.wait import wait_for

DEFINED = {
    "default": {"exchange": "default", "exchange_type": "direct", "routing_key": "default"},
    "media": {"exchange": "media", "exchange_type": "topic", "routing_key": "media.*"},
}


@pytest.fixture(params=["redis", "amqp"])
def url(request):
    """Each broker that Celery's own remote control can reach."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def consumed(url, start_worker, celery_client):
    """Start a worker and return its queues by name, as `inspect active_queues` tells them."""

    def ask(*args, **conf):
        worker = start_worker("-P", "solo", *args, broker=url, backend="rpc://", conf=conf)
        queues = celery_client(url).control.inspect(timeout=10, limit=1).active_queues()[worker.node]
        return {queue["name"]: queue for queue in queues}

    return ask


@pytest.mark.acceptance(140)
def test_the_default_queue_is_celery(consumed):
    queues = consumed()
    assert list(queues) == ["celery"]
    assert queues["celery"]["exchange"]["name"] == "celery"
    assert queues["celery"]["exchange"]["type"] == "direct"
    assert queues["celery"]["routing_key"] == "celery"


@pytest.mark.acceptance(141)
def test_all_defined_queues_are_consumed(consumed, url, client):
    assert set(consumed(task_queues=DEFINED, task_default_queue="default")) == {"default", "media"}
    app = client(url, "rpc://", task_queues=DEFINED, task_default_queue="default")
    add = app.tasks["proj.add"]
    assert add.delay(1, 1).get(timeout=30) == 2
    assert add.apply_async((2, 2), exchange="media", routing_key="media.video").get(timeout=30) == 4


@pytest.mark.acceptance(142, 144)
def test_exactly_the_queues_named_are_consumed_and_made_if_missing(consumed, url, client):
    queues = consumed("-Q", "foo,bar,baz")
    assert set(queues) == {"foo", "bar", "baz"}
    for name, queue in queues.items():
        assert (queue["exchange"]["name"], queue["exchange"]["type"], queue["routing_key"]) == (name, "direct", name)
    app = client(url, "rpc://")
    for name in queues:
        assert app.tasks["proj.add"].apply_async((1, 2), queue=name).get(timeout=30) == 3


@pytest.mark.acceptance(143)
def test_a_known_name_uses_its_definition(consumed):
    queues = consumed("-Q", "media", task_queues=DEFINED, task_default_queue="default")
    assert list(queues) == ["media"]
    assert queues["media"]["exchange"]["type"] == "topic"
    assert queues["media"]["routing_key"] == "media.*"


@pytest.mark.acceptance(145)
def test_an_unknown_queue_is_an_error_when_none_may_be_made(redis_url, start_worker):
    worker = start_worker(
        "-P",
        "solo",
        "-Q",
        "nowhere",
        broker=redis_url,
        conf={"task_queues": DEFINED, "task_default_queue": "default", "task_create_missing_queues": False},
        ready=False,
    )
    assert worker.wait() == 78
    assert "nowhere" in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.acceptance(146)
def test_excluded_queues_are_left_alone(consumed):
    assert set(consumed("-X", "media", task_queues=DEFINED, task_default_queue="default")) == {"default"}


def test_queues_command_tells_how_much_waits(broker_url, client):
    app = client(broker_url)
    for _ in range(3):
        app.tasks["proj.noop"].delay()
    env = workers.app_environment(broker=broker_url)

    def listed():
        done = workers.run_command("-A", "proj", "queues", env=env)
        assert done.returncode == 0, done.stderr
        return "celery" in done.stdout and "3" in done.stdout

    assert wait_for(listed, 30, "three waiting messages in the list")


def test_a_queue_of_the_workers_own(consumed, url, client, celery_client):
    queues = consumed("-n", "one@here", worker_direct=True)
    assert set(queues) == {"celery", "one@here.dq2"}
    ours, theirs = client(url, "rpc://"), celery_client(url, "rpc://")
    for app, direct in ((ours, worker_direct("one@here")), (theirs, nodenames.worker_direct("one@here"))):
        for queue in (direct, direct.name):
            assert app.tasks["proj.add"].apply_async((1, 2), queue=queue).get(timeout=30) == 3


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_worker_of_many_queues(broker, request, tmp_path, start_worker, client):
    """More than one statement of SQLite can join: tasks of any queue run, and TERM ends the worker."""
    url = request.getfixturevalue(f"{broker}_url")
    book = tmp_path / "book"
    names = [f"many{number}" for number in range(1_500)]
    worker = start_worker("-P", "threads", "-c", "2", "-Q", ",".join(names), broker=url, ledger=book)
    app = client(url)
    entries = names[::300] + names[-1:]
    for name in entries:
        app.tasks["proj.record"].apply_async((name,), queue=name)
    wait_for(lambda: ledger.size(book) >= len(entries), 60, lambda: f"{entries} to run: {worker.output[-1000:]}")
    assert worker.stop() == 0
    assert dict(ledger.read(book)) == dict.fromkeys(entries, 1)


def test_calls_wait_where_they_were_sent_before_there_was_a_worker(broker_url, start_worker, client, ledger_path):
    defined = {
        "celery": {},
        "gpu": {"routing_key": "gpu"},
        "video": {"exchange": "media", "exchange_type": "topic", "routing_key": "video.#"},
    }
    record = client(broker_url, task_queues=defined).tasks["proj.record"]
    record.apply_async(("by exchange",), exchange="media", routing_key="video.new")
    record.apply_async(("by key",), routing_key="gpu")
    record.apply_async(("by name",), queue="video")
    with pytest.raises(PublishRefused, match="'nowhere'"):
        record.apply_async(("lost",), routing_key="nowhere")
    for options in ({"queue": "x" * 300}, {"exchange": "x" * 300, "routing_key": "k"}, {"routing_key": "a\0"}):
        with pytest.raises(ValueError, match="the name of the"):
            record.apply_async(("never",), **options)
    assert {name: queues.waiting(broker_url, name) for name in defined} == {"celery": 0, "gpu": 1, "video": 2}
    start_worker("-P", "solo", broker=broker_url, ledger=ledger_path, conf={"task_queues": defined})
    wait_for(lambda: sorted(ledger.lines(ledger_path)) == ["by exchange", "by key", "by name"], 60, "three runs")
