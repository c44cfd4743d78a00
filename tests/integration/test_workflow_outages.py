"""Chords while the result store or the broker is away: nothing is lost, and the body runs once."""

from __future__ import annotations

import pytest

from framework import chord
from framework.exceptions import ChordError
from support import ledger
from support.brokers import PrivateRedis
from support.wait import wait_for
from support.workflows import Tasks

LONG = 60


@pytest.fixture
def private(redis_server):
    """A server of the test's own, which forgets nothing when it is stopped."""
    del redis_server  # where that cannot be had, this cannot either
    server = PrivateRedis(persist=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def scene(private, redis_url, client, start_worker, ledger_path):
    """Return ``(app, tasks, worker)``; `private` is what the parameter says, ``broker`` or ``backend``."""

    def make(pool, private_is, *options):
        urls = {"broker": redis_url, "backend": redis_url, private_is: private.fresh_url()}
        worker = start_worker("-P", pool, "-c", "3", *options, ledger=ledger_path, **urls)
        app = client(urls["broker"], urls["backend"])
        return app, Tasks.of(app.tasks), worker

    return make


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_results_are_counted_when_the_store_is_back(pool, scene, private, ledger_path):
    app, _t, worker = scene(pool, "backend")
    gate = ledger_path.with_name("gate")
    hold = app.tasks["proj.ahold" if pool == "asyncio" else "proj.hold"]
    result = chord([hold.s(str(gate)), hold.s(str(gate))], app.tasks["proj.body"].s("late")).apply_async()
    wait_for(lambda: app.control.inspect(timeout=LONG, limit=1).active(), LONG)
    private.stop()
    gate.touch()
    worker.wait_line("waits until its result can be counted", LONG, count=2)
    if pool == "asyncio":
        # Two of three slots wait: the third goes on.
        app.tasks["proj.arecord"].delay("meanwhile")
        wait_for(lambda: ledger.read(ledger_path)["meanwhile"] == 1, LONG, lambda: worker.output[-2000:])
    private.start()
    assert len(result.get(timeout=LONG)) == 2
    assert ledger.read(ledger_path)["body:late"] == 1


@pytest.mark.parametrize("pool", ["threads"])
def test_the_body_is_sent_when_the_broker_is_back(pool, scene, private, ledger_path):
    app, t, worker = scene(pool, "broker")
    gate = ledger_path.with_name("gate")
    result = chord([app.tasks["proj.hold"].s(str(gate)), t.add.s(1, 1)], app.tasks["proj.body"].s("late")).apply_async()
    assert result.parent.results[1].get(timeout=LONG) == 2
    wait_for(
        lambda: any(job["name"] == "proj.hold" for jobs in active(app).values() for job in jobs),
        LONG,
        lambda: worker.output[-2000:],
    )
    private.stop()
    gate.touch()
    worker.wait_line("waits until its result can be counted", LONG)
    private.start()
    assert result.get(timeout=LONG)[1] == 2
    assert ledger.read(ledger_path)["body:late"] == 1


def active(app):
    return app.control.inspect(timeout=LONG, limit=1).active() or {}


def test_a_member_that_is_revoked_meanwhile_is_counted_too(scene, private):
    _app, t, worker = scene("prefork", "backend")
    result = chord([t.add.s(1, 1).set(countdown=3600), t.add.s(2, 2)], t.xsum.s()).apply_async()
    first, second = result.parent.results
    assert second.get(timeout=LONG) == 4
    worker.wait_line(f"{first.id}\\] is parked", LONG)
    private.stop()
    first.revoke()
    worker.wait_line("Results cannot be stored", LONG)
    private.start()
    with pytest.raises(ChordError, match="TaskRevokedError"):
        result.get(timeout=LONG)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_what_follows_a_task_waits_for_the_broker(pool, scene, private, ledger_path):
    """The next task of a chain, a callback and a retry, with early ack, while the broker is away for long."""
    app, _t, worker = scene(pool, "broker", "-l", "debug")
    gate = str(ledger_path.with_name("gate"))
    hold, body = app.tasks["proj.hold"], app.tasks["proj.body"]
    chained = (hold.s(gate) | body.s("next")).apply_async()
    linked = hold.apply_async((gate,), link=body.s("link"))
    retried = app.tasks["proj.hold_and_retry"].delay(gate, "retry")
    wait_for(lambda: sum(map(len, active(app).values())) == 3, LONG, lambda: worker.output[-2000:])
    private.stop()
    with open(gate, "w"):
        pass
    # Each more often than `task_publish_retry_policy` tries.
    worker.wait_line("The broker did not accept a message", LONG, count=3 * 5)
    private.start()
    assert isinstance(chained.get(timeout=LONG), int)
    assert isinstance(linked.get(timeout=LONG), int)
    assert retried.get(timeout=LONG) == 1
    expected = {"body:next": 1, "body:link": 1, "again:retry": 1}
    wait_for(lambda: ledger.read(ledger_path) == expected, LONG, lambda: f"{ledger.read(ledger_path)}")
