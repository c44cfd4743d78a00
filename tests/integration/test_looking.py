"""What waits and what is parked can be looked at, by remote control and on the command line, and stays where it is."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from framework._boot import loader
from framework.api.transport import Queue
from support import workers
from support.wait import wait_for

LONG = 60.0
LATER = 3600
KEYS = {"id", "name", "args", "kwargs", "type", "hostname", "time_start", "acknowledged", "delivery_info", "worker_pid"}


def parked(app, name="celery"):
    with closing(loader.make_transport(app.conf.settings)) as transport:
        return transport.parked([Queue(name=name)])[name]


def peek(url, *words):
    return workers.run_command("-A", "proj", "queues", "peek", *words, env=workers.app_environment(broker=url))


@pytest.mark.parametrize("by_celery", [False, True], ids=["ours", "celery"])
@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_scheduled_lists_what_is_parked_for_the_queues_of_a_worker(
    request, broker, by_celery, client, celery_client, start_worker
):
    if by_celery and broker == "sqlite":
        pytest.skip("Celery has no such broker")
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url)
    start_worker("-P", "solo", "-n", "w@here", broker=url)
    start_worker("-P", "solo", "-n", "other@here", "-Q", "other", broker=url)
    # The last of them is so far ahead that it comes by several times before.
    later = (300 * LATER, LATER, LATER // 2)
    sent = [app.tasks["proj.add"].apply_async((number, 1), countdown=ahead) for number, ahead in enumerate(later)]
    wait_for(lambda: parked(app) == 3, LONG, "all to be parked")
    control = celery_client(url).control if by_celery else app.control
    found = control.inspect(timeout=10, limit=2).scheduled()
    assert found["other@here"] == []
    assert [entry["request"]["id"] for entry in found["w@here"]] == [result.id for result in reversed(sent)]
    first = found["w@here"][0]
    assert [entry["eta"] for entry in found["w@here"]] == sorted(entry["eta"] for entry in found["w@here"])
    assert first.keys() == {"eta", "priority", "request"}
    assert first["request"].keys() == KEYS
    assert (first["request"]["name"], first["request"]["args"]) == ("proj.add", [2, 1])
    assert parked(app) == 3


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_scheduled_lists_the_nearest_thousand_and_the_number_of_the_others(request, broker, client, start_worker):
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url)
    start_worker("-P", "solo", "-n", "w@here", broker=url)
    app.send_many(app.tasks["proj.add"].si(number, 1).set(countdown=LATER // 4 + number) for number in range(1_020))
    wait_for(lambda: parked(app) == 1_020, LONG, "all to be parked")
    (found,) = app.control.inspect(timeout=30, limit=1).scheduled().values()
    assert [entry["request"]["args"] for entry in found[:-1]] == [[number, 1] for number in range(1_000)]
    assert found[-1]["request"]["name"] == "20 more tasks are parked in the broker: celery"
    assert found[-1]["request"].keys() == KEYS


def test_scheduled_says_how_many_are_parked_in_rabbitmq(amqp_url, client, start_worker):
    app = client(amqp_url)
    start_worker("-P", "solo", "-n", "w@here", broker=amqp_url)
    for number in range(3):
        app.tasks["proj.add"].apply_async((number, 1), countdown=LATER)
    wait_for(lambda: parked(app) == 3, LONG, "all to be parked")
    (found,) = app.control.inspect(timeout=30, limit=1).scheduled().values()
    assert [entry["request"]["name"] for entry in found] == ["3 more tasks are parked in the broker: celery"]
    done = peek(amqp_url, "celery", "--parked")
    assert done.returncode != 0
    assert "cannot show the parked messages of a queue; the queue 'celery' has 3 of them" in done.stderr


@pytest.mark.parametrize("broker", ["redis", "sqlite", "amqp"])
def test_the_command_line_shows_what_waits(request, broker, client):
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url)
    sent = [app.tasks["proj.add"].delay(number, 1).id for number in range(5)]
    for _ in range(2):
        done = peek(url, "celery", "-n", "3", "--json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert (shown["queue"], shown["waiting"]) == ("celery", 5)
        assert [(one["id"], one["task"], one["args"]) for one in shown["messages"]] == [
            (task_id, "proj.add", f"({number}, 1)") for number, task_id in enumerate(sent[:3])
        ]
    done = peek(url, "celery", "-n", "3")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["id", *sent[:3]]
    assert "2 more waiting" in done.stderr
    done = peek(url, "nowhere")
    assert done.returncode == 0
    assert "nowhere does not exist yet" in done.stderr
    listed = workers.run_command(
        "-A", "proj", "queues", "-Q", "celery", "--json", env=workers.app_environment(broker=url)
    )
    assert [(queue["queue"], queue["waiting"]) for queue in json.loads(listed.stdout)] == [("celery", 5)]
