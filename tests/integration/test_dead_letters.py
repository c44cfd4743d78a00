"""Dead letters from the outside: `framework dlq` lists, shows, replays and drops them, on every broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import redis

from framework import exitcodes
from support import ledger, queues, workers
from support.wait import wait_for

DLQ = "celery.dlq"
BAD = b"not json at all"


@pytest.fixture
def place(broker_url, backend_url, client, start_worker, ledger_path) -> SimpleNamespace:
    """Five letters: four messages that one worker refused for their content type, and one that nobody can read."""
    app = client(broker_url)
    conf = {"accept_content": ["pickle"], "worker_force_root": True}
    picky = start_worker("-P", "solo", broker=broker_url, ledger=ledger_path, conf=conf)
    ids = [app.tasks["proj.record"].delay(number).id for number in range(3)]
    ids.append(app.tasks["proj.add"].delay(1, 2).id)
    queues.push(broker_url, BAD, {"task": "proj.add", "id": "odd"}, content_type="application/x-odd")
    wait_for(lambda: queues.waiting(broker_url, DLQ) == 5, 30, lambda: picky.output)
    assert picky.stop() == 0
    env = workers.app_environment(broker=broker_url, ledger=ledger_path)

    def dlq(*args: str) -> subprocess.CompletedProcess[str]:
        return workers.run_command("-A", "proj", "dlq", *args, env=env)

    def letters(*args: str):
        return json.loads(dlq("list", "--json", *args).stdout)

    return SimpleNamespace(app=app, url=broker_url, ids=ids, dlq=dlq, letters=letters, ledger=ledger_path, env=env)


def test_looking_changes_nothing(place):
    first = place.letters()
    assert [letter["id"] for letter in first] == [*place.ids, "odd"]
    assert {(letter["queue"], letter["reason"], letter["dead_letter_queue"]) for letter in first} == {
        ("celery", "content-refused", DLQ)
    }
    assert place.letters() == first
    whole = json.loads(place.dlq("show", "--json", place.ids[1]).stdout)
    assert [letter["id"] for letter in whole] == [place.ids[1]]
    assert json.loads(whole[0]["body"])[0] == [1]
    assert whole[0]["headers"]["task"] == "proj.record"
    for_people = place.dlq("list", "--task", "proj.add").stdout.splitlines()
    assert [line.split()[0] for line in for_people] == ["id", place.ids[3], "odd"]
    assert place.letters() == first
    assert queues.waiting(place.url, DLQ) == 5


def test_what_is_replayed_runs_once_and_the_rest_stays(place, start_worker):
    done = place.dlq("replay", place.ids[0], place.ids[2])
    assert (done.returncode, done.stdout) == (exitcodes.OK, "Replayed 2 dead letters.\n")
    assert [letter["id"] for letter in place.letters()] == [place.ids[1], place.ids[3], "odd"]
    worker = start_worker("-P", "solo", broker=place.url, ledger=place.ledger)
    wait_for(lambda: ledger.read(place.ledger) == Counter(["0", "2"]), 30, lambda: worker.output)
    assert place.dlq("replay", "--task", "proj.record").stdout == "Replayed 1 dead letter.\n"
    wait_for(lambda: ledger.read(place.ledger) == Counter(["0", "1", "2"]), 30, lambda: worker.output)
    # As wrong as it was: it comes back, with the second reason.
    assert place.dlq("replay", "odd").returncode == exitcodes.OK
    wait_for(lambda: [letter["id"] for letter in place.letters()] == [place.ids[3], "odd"], 30, lambda: worker.output)
    assert worker.stop() == 0


def test_replay_into_another_queue_and_purge(place):
    assert place.dlq("replay", "--all", "--to", "elsewhere").returncode == exitcodes.OK
    assert queues.waiting(place.url, "elsewhere") == 5
    assert place.letters() == []
    assert "No dead letters" in place.dlq("list").stderr


def test_purge_takes_what_is_chosen(place):
    assert place.dlq("purge", "-f", place.ids[0], place.ids[1]).stdout == "Purged 2 dead letters.\n"
    assert place.dlq("purge", "--all").returncode != exitcodes.OK  # it asks, and nobody answers
    assert queues.waiting(place.url, DLQ) == 3
    assert json.loads(place.dlq("purge", "--all", "-f", "--json").stdout) == {"purged": 3}
    assert queues.waiting(place.url, DLQ) == 0


def test_what_is_asked_wrongly_changes_nothing(place):
    for arguments, words in ((("replay",), "no dead letters selected"), (("purge", "-f"), "no dead letters selected")):
        done = place.dlq(*arguments)
        assert done.returncode == exitcodes.USAGE
        assert words in done.stderr
    done = place.dlq("purge", "-f", place.ids[0], "no-such-id")
    assert done.returncode != exitcodes.OK
    assert "no-such-id" in done.stderr
    assert queues.waiting(place.url, DLQ) == 5


def test_without_dead_letter_queues_it_says_so(sqlite_url):
    env = workers.app_environment(broker=sqlite_url, conf=json.dumps({"task_dead_letter_queue": None}))
    done = workers.run_command("-A", "proj", "dlq", "list", env=env)
    assert done.returncode == exitcodes.CONFIG
    assert "dead_letter_queue" in done.stderr


def test_letters_that_others_put_there(redis_url):
    """The broker's own dead letters, with its reason, and bytes that are no message: listed; the latter stay."""
    death = {"x-death": [{"queue": "orders", "reason": "expired", "count": 4}], "task": "proj.add", "id": "aged"}
    queues.push(redis_url, b"[[1, 2], {}, {}]", death, queue=DLQ)
    queues.push_bytes(redis_url, b"\xff\x00", DLQ)
    env = workers.app_environment(broker=redis_url)
    found = json.loads(workers.run_command("-A", "proj", "dlq", "list", "--json", env=env).stdout)
    assert [(each["id"], each["queue"], each["reason"], each["deliveries"]) for each in found] == [
        ("aged", "orders", "expired", 4),
        (None, None, "undecodable", None),
    ]
    done = workers.run_command("-A", "proj", "dlq", "replay", "--all", env=env)
    assert done.returncode == exitcodes.REFUSED
    assert done.stdout == "Replayed 1 dead letter.\n"
    assert "Stayed: without id" in done.stderr
    with redis.Redis.from_url(redis_url) as server:
        [raw] = server.lrange("orders", 0, -1)
    headers = json.loads(raw)["headers"]
    assert headers["id"] == "aged"
    assert "x-death" not in headers
    assert queues.waiting(redis_url, DLQ) == 1


def test_letters_come_back_when_a_reader_is_killed(redis_url):
    for number in range(3):
        queues.push(redis_url, b"{}", {"id": f"l{number}"}, queue=DLQ)
    program = (
        "import os, signal\n"
        "from framework.client.dead_letter_queue import DeadLetterQueue\n"
        "from framework import App\n"
        "from framework._boot import loader\n"
        f"app = App('x', broker={redis_url!r})\n"
        "app.conf.broker_transport_options = {'lease': 1}\n"
        f"box = DeadLetterQueue(loader.make_transport(app.conf.settings), [{DLQ!r}])\n"
        "assert len(box.dead_letters) == 3\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=workers.environment(os.environ), check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    env = workers.app_environment(broker=redis_url, conf=json.dumps({"broker_transport_options": {"lease": 1}}))

    def ids():
        found = workers.run_command("-A", "proj", "dlq", "list", "--json", env=env)
        return [each["id"] for each in json.loads(found.stdout or "[]")]

    wait_for(lambda: ids() == ["l0", "l1", "l2"], 30, ids)
