"""Retries that are further ahead than a worker waits: they keep their id and count, and a client sees what they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest

from framework._boot import loader
from framework.api.transport import Queue
from framework.exceptions import TaskRevokedError
from support import ledger
from support.fleet import Fleet, running
from support.wait import wait_for

LONG = 40


@pytest.fixture(scope="module", params=["redis", "sqlite", "amqp"])
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    """One worker; what is half a second ahead is parked where the broker can."""
    conf = {"worker_eta_park_after": 0.5}
    backend = request.getfixturevalue("redis_server").fresh_url() if request.param == "amqp" else None
    options = ("-P", "threads", "-c", "4")
    with running(
        request,
        request.param,
        tmp_path_factory.mktemp("retries"),
        options,
        names=("one",),
        conf=conf,
        app="support.retried",
        backend=backend,
    ) as made:
        yield made


def new(word: str) -> str:
    return f"{word}-{uuid4().hex[:8]}"


def starts(fleet: Fleet, entry: str) -> list[tuple[str, int, float]]:
    """Return the starts of a task: its id, how often it was retried, when."""
    found = [line.split() for line in ledger.lines(fleet.book) if line.startswith(entry)]
    return [(task_id, int(retries), float(when)) for _, task_id, retries, when in found]


def parked(fleet: Fleet) -> int:
    with closing(loader.make_transport(fleet.ours.conf.settings)) as transport:
        return transport.parked([Queue(name="celery")])["celery"]


def send(fleet: Fleet, name: str, entry: str, *args: object, **options: object):
    return fleet.ours.send_task(f"retried.{name}", (entry, *args), **options)


def test_one_that_is_far_ahead_keeps_its_id_and_count_and_is_told(fleet):
    entry = new("later")
    result = send(fleet, "later", entry, 1, 4)
    wait_for(lambda: result.state == "RETRY", LONG, lambda: fleet.workers["one@here"].output[-3000:])
    assert "not yet" in str(result.result)
    assert not result.ready()
    if not fleet.url.startswith("amqp"):
        wait_for(lambda: parked(fleet) == 1, LONG, lambda: f"{parked(fleet)} are parked")
    assert result.get(timeout=LONG) == 1
    found = starts(fleet, entry)
    assert [(task_id, retries) for task_id, retries, _ in found] == [(result.id, number) for number in range(2)]
    assert found[1][2] - found[0][2] > 4 - 0.1
    assert parked(fleet) == 0


@pytest.mark.parametrize("fleet", ["redis", "amqp"], indirect=True)
def test_one_that_is_far_ahead_can_be_revoked(fleet):
    entry = new("revoked")
    result = send(fleet, "later", entry, 1, 5)
    wait_for(lambda: result.state == "RETRY", LONG, lambda: fleet.workers["one@here"].output[-3000:])
    fleet.tell("revoke", result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=LONG)
    assert len(starts(fleet, entry)) == 1


@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_one_that_expires_before_its_time_does_not_run_again(fleet):
    entry = new("expires")
    result = send(fleet, "later", entry, 1, 6, expires=4)
    wait_for(lambda: result.state == "RETRY", LONG, lambda: fleet.workers["one@here"].output[-3000:])
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=LONG)
    assert len(starts(fleet, entry)) == 1
