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

    def make(pool, private_is):
        urls = {"broker": redis_url, "backend": redis_url, private_is: private.fresh_url()}
        worker = start_worker("-P", pool, "-c", "3", ledger=ledger_path, **urls)
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
