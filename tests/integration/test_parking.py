"""Tasks whose eta is far ahead wait in the broker, on every transport that can park: they come at their time, and once.

"Far" is a second here. That a task is not late is measured elsewhere; that it is not early is tested.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest

from framework._boot import loader
from framework.api.transport import Queue
from framework.exceptions import TaskRevokedError
from support import celeryproj, ledger, proj, queues, workers
from support.brokers import PrivateRedis
from support.fleet import Fleet, running
from support.wait import wait_for

CONF = {"worker_eta_park_after": 1}
ONE = "one@here"


@pytest.fixture(scope="module", params=["redis", "sqlite"])
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    """Two workers, of which the second may be killed."""
    options = [("-P", "threads", "-c", "2"), ("-P", "solo", "-Q", "other")]
    with running(request, request.param, tmp_path_factory.mktemp("parking"), *options, conf=CONF) as made:
        yield made


def parked(app, name: str = "celery") -> int:
    with closing(loader.make_transport(app.conf.settings)) as transport:
        return transport.parked([Queue(name=name)])[name]


def parked_becomes(app, count: int, name: str = "celery") -> None:
    wait_for(lambda: parked(app, name) == count, 20, lambda: f"{count} parked; there are {parked(app, name)}")


def new(word: str) -> str:
    return f"{word}-{uuid4().hex[:8]}"


def test_it_waits_in_the_broker_and_runs_at_its_time(fleet):
    entry = new("timely")
    sent = time.monotonic()
    fleet.send("proj.stamp", entry, countdown=3)
    parked_becomes(fleet.ours, 1)
    assert fleet.workers[ONE].lines("proj.stamp.* is parked in the broker until")
    assert fleet.send("proj.add", 1, 2).get(timeout=20) == 3

    def lines():
        return [line.split() for line in ledger.lines(fleet.book) if line.startswith(entry)]

    wait_for(lines, 20, lambda: fleet.workers[ONE].output[-2000:])
    [(_, node, when)] = lines()
    assert node == ONE
    assert float(when) > sent + 3 - 0.1
    assert parked(fleet.ours) == 0


def test_what_is_near_is_held_here(fleet):
    result = fleet.send("proj.add", 1, 1, countdown=0.9)
    assert result.get(timeout=20) == 2
    assert not fleet.workers[ONE].lines(rf"\[{result.id}\] is parked")


def test_a_retry_is_parked(fleet):
    result = fleet.send("proj.retrying", 1, 2)
    assert result.get(timeout=30) == 1
    fleet.workers[ONE].wait_line(rf"\[{result.id}\] is parked in the broker until")


def test_it_expires_before_its_time(fleet):
    result = fleet.send("proj.add", 1, 1, countdown=3, expires=1.5)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=20)
    fleet.workers[ONE].wait_line(rf"\[{result.id}\] is parked")


def test_a_revoke_by_stamps_takes_hold_when_it_comes(fleet):
    """Nobody finds it by them where it is parked."""
    entry = new("revoked")
    headers = {"stamped_headers": ["mon"], "stamps": {"mon": entry}}
    result = fleet.send("proj.record", entry, countdown=3, ignore_result=False, headers=headers)
    parked_becomes(fleet.ours, 1)
    fleet.tell("revoke_by_stamped_headers", {"mon": [entry]})
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)
    assert ledger.read(fleet.book)[entry] == 0


def test_it_is_shown_and_purged(fleet):
    for _ in range(3):
        fleet.send("proj.noop", queue="other", countdown=3600)
    parked_becomes(fleet.ours, 3, "other")
    shown = fleet.run("queues", "-Q", "other")
    assert shown.stdout.split() == ["queue", "waiting", "parked", "other", "0", "3"]
    purged = fleet.run("purge", "-f", "-Q", "other")
    assert "Purged 3 messages" in purged.stdout, purged
    assert parked(fleet.ours, "other") == 0


def test_what_celery_sends_is_parked(redis_url, start_worker, ledger_path):
    with celeryproj.closing(celeryproj.make_app(redis_url)) as theirs, closing(proj.make_app(redis_url)) as ours:
        start_worker("-P", "threads", "-c", "1", broker=redis_url, ledger=ledger_path, conf=CONF)
        sent = time.monotonic()
        theirs.send_task("proj.stamp", ("one",), countdown=3)
        parked_becomes(ours, 1)
        wait_for(lambda: ledger.size(ledger_path), 20, "it to run")
        assert float(ledger.lines(ledger_path)[0].split()[2]) > sent + 3 - 0.1


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_revoke_by_stamps_is_seen_however_long_it_is_parked(broker, request, start_worker, client):
    """It comes by often enough."""
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url, url)
    conf = {**CONF, "worker_revoke_expires": 8}
    worker = start_worker("-P", "solo", "-n", "w@here", broker=url, backend=url, conf=conf)
    headers = {"stamped_headers": ["mon"], "stamps": {"mon": "red"}}
    result = app.tasks["proj.add"].apply_async((1, 1), countdown=36_000, headers=headers)
    parked_becomes(app, 1)
    assert app.control.revoke_by_stamped_headers({"mon": ["red"]}, reply=True, timeout=20, limit=1)
    worker.wait_line(rf"Discarding revoked task: proj\.add\[{result.id}\]", timeout=20)
    assert parked(app) == 0


def test_it_looks_beyond_what_is_parked_and_keeps_no_more_than_fits(redis_url, start_worker, client, tmp_path):
    """A thousand for later lie before ten that hold: one runs, and the others are there for other workers."""
    app = client(redis_url)
    app.send_many(app.tasks["proj.noop"].si().set(countdown=3600) for _ in range(1000))
    gate = tmp_path / "gate"
    app.send_many(app.tasks["proj.hold"].si(str(gate)) for _ in range(10))
    start_worker("-P", "solo", "-c", "1", broker=redis_url, conf={"worker_prefetch_multiplier": 1})
    parked_becomes(app, 1000)
    try:
        wait_for(lambda: queues.waiting(redis_url) == 9, 20, lambda: f"9 waiting; {queues.waiting(redis_url)}")
    finally:
        gate.touch()


# ---------------------------------------------------------------- the books


def sent_for_later(app, count: int, ahead: float) -> tuple[set[str], set[str]]:
    """Send `count` tasks, half of them with late acknowledgement, due within a second; return the entries of both."""
    early = {f"early{number}" for number in range(count // 2)}
    late = {f"late{number}" for number in range(count // 2)}
    for task, entries in (("proj.record", early), ("proj.record_late", late)):
        app.send_many(
            app.tasks[task].si(entry).set(countdown=ahead + number / len(entries))
            for number, entry in enumerate(sorted(entries))
        )
    return early, late


def check(early: set[str], late: set[str], book, before: Counter, lost: int = 0, *, again: bool = False) -> None:
    """Compare the books; `before` is what had run at the kill, when `lost` tasks may have been running.

    `again`: others may have run twice, because a worker that is killed while it parks leaves original and copy.
    """

    def missing() -> set[str]:
        return (early | late) - set(ledger.read(book))

    wait_for(lambda: len(missing()) <= lost and not missing() & late, 40, lambda: f"{len(missing())} are missing")
    ran = ledger.read(book)
    assert set(ran) <= early | late
    assert again or {entry for entry, times in ran.items() if times > 1} <= set(before)
    assert max(ran.values()) <= 2


def settings_for(broker: str) -> dict[str, object]:
    return CONF if broker == "amqp" else {**CONF, "broker_transport_options": {"lease": 2}}


@pytest.mark.parametrize("broker", ["redis", "sqlite", "amqp"])
def test_a_worker_is_killed_and_another_goes_on(broker, request, start_worker, client, ledger_path):
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url)
    conf = settings_for(broker)
    first, second = (
        start_worker("-P", "threads", "-c", "2", "-n", f"{name}@here", broker=url, ledger=ledger_path, conf=conf)
        for name in ("one", "two")
    )
    early, late = sent_for_later(app, 500, 4)
    wait_for(lambda: parked(app) == 500 or ledger.size(ledger_path), 20, "all to be parked")
    first.kill()
    before = ledger.read(ledger_path)
    check(early, late, ledger_path, before, lost=2 if before else 0, again=broker == "amqp")
    parked_becomes(app, 0)  # copies of what has run, on AMQP
    check(early, late, ledger_path, before, lost=2 if before else 0, again=broker == "amqp")
    assert second.stop() == 0, second.output


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_all_are_killed_as_they_come_due(broker, request, start_worker, client, ledger_path):
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url)
    conf = settings_for(broker)
    options = {"broker": url, "ledger": ledger_path, "conf": conf}
    first = start_worker("-P", "threads", "-c", "2", "-n", "one@here", **options)
    early, late = sent_for_later(app, 500, 3)
    wait_for(lambda: ledger.size(ledger_path) > 10, 30, "the first to run")
    first.kill()
    before = ledger.read(ledger_path)
    start_worker("-P", "threads", "-c", "2", "-n", "two@here", **options)
    # With a broker that pushes it may have been parking again what it had been given before.
    check(early, late, ledger_path, before, lost=2, again=broker == "amqp")


def test_the_server_starts_again(ledger_path, tmp_path, client):
    server = PrivateRedis(persist=True)
    with closing(server):
        server.start()
        env = workers.app_environment(broker=server.url, ledger=ledger_path, conf='{"worker_eta_park_after": 1}')
        with workers.start_worker(None, "-P", "threads", "-c", "2", env=env) as worker:
            worker.wait_ready()
            app = client(server.url)
            early, late = sent_for_later(app, 200, 4)
            wait_for(lambda: parked(app) == 200 or ledger.size(ledger_path), 20, "all to be parked")
            server.kill()
            before = ledger.read(ledger_path)
            server.start()
            check(early, late, ledger_path, before)
            assert parked(app) == 0
