"""A task that is parked in the broker and is revoked ends at once, on every transport that finds it there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest

from framework._boot import loader
from framework.api.transport import Queue
from framework.exceptions import TaskRevokedError
from support import ledger
from support.fleet import LONG, Fleet, running
from support.wait import wait_for

ONE, TWO = "one@here", "two@here"
#: Later than any test.
LATER = 3600


@pytest.fixture(scope="module", params=["redis", "sqlite"])
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    """Two workers on one queue, and the second on another one too."""
    options = [("-P", "threads", "-c", "2"), ("-P", "solo", "-Q", "celery,other")]
    with running(request, request.param, tmp_path_factory.mktemp("recalling"), *options) as made:
        yield made


def parked(app, name: str = "celery") -> int:
    with closing(loader.make_transport(app.conf.settings)) as transport:
        return transport.parked([Queue(name=name)])[name]


def parked_becomes(app, count: int, name: str = "celery") -> None:
    wait_for(lambda: parked(app, name) == count, LONG, lambda: f"{count} parked; there are {parked(app, name)}")


def later(fleet: Fleet, count: int, queue: str = "celery") -> list:
    """Send tasks for later and return their results once they are parked. Should one run, it is in the book."""
    before = parked(fleet.ours, queue)
    entries = [f"later-{uuid4().hex[:8]}" for _ in range(count)]
    made = [
        fleet.send("proj.record", entry, queue=queue, countdown=LATER, ignore_result=False, task_id=entry)
        for entry in entries
    ]
    parked_becomes(fleet.ours, before + count, queue)
    return made


def revoked(results) -> None:
    for result in results:
        with pytest.raises(TaskRevokedError, match="revoked"):
            result.get(timeout=LONG)


def tell_two(fleet: Fleet, command: str) -> None:
    assert fleet.ours.control.broadcast(command, destination=[TWO], reply=True, timeout=LONG, limit=1)


@pytest.mark.parametrize("command", ["revoke", "terminate"])
def test_it_ends_and_the_others_stay(fleet, command):
    first, second, third = later(fleet, 3)
    fleet.tell(command, second.id)
    revoked([second])
    assert parked(fleet.ours) == 2
    # Those that were revoked are found, and the worker goes on with what else there is.
    fleet.tell("revoke", [first.id, third.id])
    revoked([first, third])
    assert parked(fleet.ours) == 0
    assert fleet.send("proj.add", 1, 2).get(timeout=LONG) == 3
    ran = ledger.read(fleet.book)
    assert not {first.id, second.id, third.id} & set(ran)


def test_many_at_once(fleet):
    """More than are asked for in one go, in two queues; each is ended once, by one of those who ask."""
    results = later(fleet, 600) + later(fleet, 100, "other")
    fleet.tell("revoke", [result.id for result in results])
    revoked(results)
    assert (parked(fleet.ours), parked(fleet.ours, "other")) == (0, 0)
    ids = {result.id for result in results}
    assert not ids & set(ledger.read(fleet.book))
    ended = [
        task_id
        for worker in fleet.workers.values()
        for line in worker.lines("Discarding revoked task")
        for task_id in ids
        if f"[{task_id}]" in line
    ]
    assert sorted(ended) == sorted(ids)


def test_two_of_one_id_end_both(fleet):
    [first] = later(fleet, 1)
    fleet.send("proj.record", first.id, countdown=LATER, ignore_result=False, task_id=first.id)
    parked_becomes(fleet.ours, 2)
    fleet.tell("revoke", first.id)
    revoked([first])
    parked_becomes(fleet.ours, 0)
    assert first.id not in ledger.read(fleet.book)


def test_what_has_no_worker_of_its_queue_waits_for_one(fleet):
    """A worker that comes to consume the queue, or consumes again, asks for what was revoked before."""
    results = later(fleet, 2, "other")
    fleet.tell("cancel_consumer", "other", to=[TWO])
    fleet.tell("revoke", results[0].id)
    assert parked(fleet.ours, "other") == 2
    fleet.tell("add_consumer", "other", to=[TWO])
    revoked(results[:1])
    tell_two(fleet, "quiet")
    fleet.tell("revoke", results[1].id)
    assert parked(fleet.ours, "other") == 1
    tell_two(fleet, "resume")
    revoked(results[1:])


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_who_has_no_room_ends_it_all_the_same(broker, request, start_worker, client, ledger_path, tmp_path):
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url, url)
    conf = {"worker_prefetch_multiplier": 1}
    start_worker("-P", "threads", "-c", "1", broker=url, backend=url, ledger=ledger_path, conf=conf)
    result = app.tasks["proj.record"].apply_async(("never",), countdown=LATER, ignore_result=False)
    parked_becomes(app, 1)
    gate = tmp_path / "gate"
    for number in range(5):
        app.tasks["proj.hold_early"].apply_async((str(gate), number))
    wait_for(lambda: ledger.read(ledger_path)["start:0"], LONG, "the worker to be busy")
    assert app.control.revoke(result.id, reply=True, timeout=LONG, limit=1)
    revoked([result])
    gate.touch()
    wait_for(lambda: ledger.read(ledger_path)["end:4"], LONG, "the others to run")
    assert ledger.read(ledger_path)["never"] == 0


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_worker_that_starts_ends_what_it_remembers(broker, request, start_worker, client, ledger_path, tmp_path):
    """Or what the others tell it; the worker that had parked the task is gone."""
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url, url)
    given = {"broker": url, "backend": url, "ledger": ledger_path}
    first = start_worker("-P", "solo", "-n", "first@here", **given)
    record = app.tasks["proj.record"]
    one, two = (record.apply_async((entry,), countdown=LATER, ignore_result=False) for entry in ("one", "two"))
    parked_becomes(app, 2)
    assert first.stop() == 0
    state = ("--statedb", str(tmp_path / "state"), "--without-mingle")
    second = start_worker("-P", "solo", "-n", "second@here", "-Q", "elsewhere", *state, **given)
    assert app.control.revoke(one.id, reply=True, timeout=LONG, limit=1)
    assert second.stop() == 0
    assert parked(app) == 2
    start_worker("-P", "solo", "-n", "third@here", *state, **given)
    revoked([one])
    start_worker("-P", "solo", "-n", "fourth@here", "-Q", "elsewhere", "--without-mingle", **given)
    app.control.cancel_consumer("celery", ["third@here"], reply=True, timeout=LONG)
    assert app.control.revoke(two.id, destination=["fourth@here"], reply=True, timeout=LONG, limit=1)
    assert parked(app) == 1
    start_worker("-P", "solo", "-n", "fifth@here", **given)
    revoked([two])
    assert parked(app) == 0
    assert not ledger.read(ledger_path)


def test_it_can_run_after_all(fleet):
    """What was revoked and is no longer, before it is sent, is parked as any other."""
    task_id = uuid4().hex
    fleet.tell("revoke", task_id)
    fleet.broadcast("unrevoke", {"task_id": [task_id]})
    fleet.send("proj.record", task_id, countdown=LATER, task_id=task_id)
    parked_becomes(fleet.ours, 1)
    assert "Purged 1 message" in fleet.run("purge", "-f").stdout
