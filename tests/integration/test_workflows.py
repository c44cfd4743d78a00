"""Workflows on our workers: every kind of them on several pools and result stores, and what goes wrong in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from signal import SIGKILL
from types import SimpleNamespace
from typing import Any

import pytest

import framework
from framework import chain, chord, group
from framework.client.results import GroupResult
from framework.exceptions import ChordError, ConfigError, TaskRevokedError, WorkerLostError
from support import ledger, proj, workers
from support.wait import wait_for
from support.workflows import CASES, FAILING, Tasks

ARRANGEMENTS = [
    pytest.param(("redis", "prefork"), id="redis-prefork"),
    pytest.param(("sqlite", "threads"), id="sqlite-threads"),
    pytest.param(("redis", "asyncio"), id="redis-asyncio"),
    pytest.param(("sqlite", "prefork"), id="sqlite-prefork"),
]
#: Longer than a worker may take that has to share its processor; a pass does not wait for it.
LONG = 40


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def fleet(request, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A worker for two queues and a client, shared by all tests of an arrangement."""
    kind, pool = request.param
    place = tmp_path_factory.mktemp("fleet")
    url = f"sqlite:///{place}/broker.db" if kind == "sqlite" else request.getfixturevalue("redis_server").fresh_url()
    book = place / "ledger"
    env = workers.app_environment(broker=url, backend=url, ledger=book, conf='{"task_unknown_retries": 0}')
    app = proj.make_app(url, url)
    worker = workers.start_worker(None, "-P", pool, "-c", "2", "-Q", "celery,bodies", env=env)
    with contextlib.closing(app), worker:
        worker.wait_ready()
        yield SimpleNamespace(
            app=app, tasks=app.tasks, t=Tasks.of(app.tasks), worker=worker, ledger=book, pool=pool, env=env
        )


@pytest.mark.parametrize("name", CASES)
def test_workflow(fleet, name):
    make, value = CASES[name]
    assert make(framework, fleet.t).apply_async().get(timeout=LONG) == value


@pytest.mark.parametrize("name", FAILING)
def test_a_chord_with_a_failure_fails(fleet, name):
    result = FAILING[name](framework, fleet.t).apply_async()
    with pytest.raises(ChordError, match=r"raised|Dependency"):
        result.get(timeout=LONG)


def test_a_member_that_no_worker_knows_fails_the_chord(fleet):
    result = chord([framework.signature("proj.nowhere", app=fleet.app), fleet.t.add.s(1, 1)], fleet.t.xsum.s())
    with pytest.raises(ChordError, match=r"raised proj\.nowhere"):
        result.apply_async().get(timeout=LONG)


def test_parents_are_the_header_and_what_came_before_it(fleet):
    t = fleet.t
    result = (t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)) | t.xsum.s()).apply_async()
    assert result.get(timeout=LONG) == 7
    header = result.parent
    assert isinstance(header, GroupResult)
    assert header.get(timeout=LONG) == [3, 4]
    assert header.parent.get(timeout=LONG) == 2
    assert result.as_list() == [result.id, header.id, header.parent.id]


def test_every_body_runs_exactly_once(fleet):
    t, body = fleet.t, fleet.tasks["proj.body"]
    results = [
        chord([t.add.s(number, each) for each in range(4)], body.s(f"books-{number}")).apply_async()
        for number in range(60)
    ]
    for number, result in enumerate(results):
        assert result.get(timeout=LONG) == [number + each for each in range(4)]
    ran = {entry: count for entry, count in ledger.read(fleet.ledger).items() if entry.startswith("body:books-")}
    assert ran == {f"body:books-{number}": 1 for number in range(60)}


def many_calls(t, worker, gate, many):
    """Yield calls; the first must have run before the last is given."""
    yield t.touch.s(str(gate))
    for number in range(1, many):
        if number == many - 1:
            wait_for(gate.exists, LONG, lambda: worker.output[-2000:])
        yield t.add.s(number, number)


def test_what_an_iterator_gives_is_sent_as_it_comes(fleet, tmp_path):
    """The first tasks end before the client knows how many there are, and count all the same."""
    t = SimpleNamespace(touch=fleet.tasks["proj.touch"], add=fleet.t.add)
    result = chord(many_calls(t, fleet.worker, tmp_path / "chord", 600), fleet.t.xsum.s()).apply_async()
    assert result.get(timeout=LONG) == 599 * 600
    assert len(result.parent) == 600
    result = group(many_calls(t, fleet.worker, tmp_path / "group", 510)).apply_async()
    assert result.get(timeout=LONG) == [0, *(2 * number for number in range(1, 510))]
    calls = (fleet.t.fail.s("x") if number == 1 else fleet.t.add.s(1, 1) for number in range(510))
    result = chord(calls, fleet.t.xsum.s()).apply_async()
    with pytest.raises(ChordError, match="x"):
        result.get(timeout=LONG)


def test_what_an_iterator_gives_is_sent_as_it_comes_on_rabbitmq(amqp_url, redis_url, client, start_worker, tmp_path):
    worker = start_worker("-P", "threads", "-c", "2", broker=amqp_url, backend=redis_url)
    app = client(amqp_url, redis_url)
    t = SimpleNamespace(touch=app.tasks["proj.touch"], add=app.tasks["proj.add"])
    result = chord(many_calls(t, worker, tmp_path / "gate", 600), app.tasks["proj.xsum"].s()).apply_async()
    assert result.get(timeout=LONG) == 599 * 600


def test_the_body_goes_to_its_own_queue_with_its_links(fleet):
    t = fleet.t
    body = fleet.tasks["proj.whoami"].si().set(queue="bodies")
    sent = chord([t.add.s(1, 1)], body)
    sent.link(fleet.tasks["proj.record"].si("linked"))
    assert sent.apply_async().get(timeout=LONG)["routing_key"] == "bodies"
    wait_for(lambda: ledger.read(fleet.ledger)["linked"], LONG, lambda: fleet.worker.output[-2000:])


def test_empty_callbacks_are_left_out(fleet):
    t, record = fleet.t, fleet.tasks["proj.record"]
    links = [chain(), record.si(f"after-empty-{fleet.pool}"), group(), record.si(f"last-{fleet.pool}")]
    assert t.add.apply_async((1, 1), link=links, link_error=[chain()]).get(timeout=LONG) == 2
    expected = {f"after-empty-{fleet.pool}", f"last-{fleet.pool}"}
    wait_for(lambda: expected <= ledger.read(fleet.ledger).keys(), LONG, lambda: fleet.worker.output[-2000:])


def test_error_callbacks_are_those_of_the_body(fleet):
    t, oops = fleet.t, fleet.tasks["proj.oops"]
    made = chord([t.fail.s("x"), t.add.s(1, 1)], t.xsum.s())
    made.link_error(oops.s())
    result = made.apply_async()
    with pytest.raises(ChordError):
        result.get(timeout=LONG)
    wait_for(lambda: ledger.read(fleet.ledger)[f"oops:{result.id}"], LONG, lambda: fleet.worker.output[-2000:])
    failed = next(each for each in result.parent if each.failed())
    assert ledger.read(fleet.ledger)[f"oops:{failed.id}"] == 0


def test_error_callbacks_that_are_sent_are_children_of_a_failed_body(fleet):
    t = fleet.t
    body = t.xsum.s().on_error(t.add.s("!")).on_error(fleet.tasks["proj.oops"].s()).on_error(t.add.s("?"))
    result = chord([t.fail.s("x"), t.add.s(1, 1)], body).apply_async()
    with pytest.raises(ChordError):
        result.get(timeout=LONG)
    (sent,) = result.children
    assert sent.get(timeout=LONG) == [f"{result.id}!", f"{result.id}?"]


def test_each_task_of_a_body_that_is_a_group_fails_as_the_header_did(fleet):
    t, labelled = fleet.t, fleet.tasks["proj.labelled_oops"]
    body = group(t.xsum.s().on_error(labelled.s("own")), t.xsum.s(), chain(t.xsum.s(), t.echo.s()))
    made = chord([t.fail.s("x"), t.add.s(1, 1)], body.set(link_error=[labelled.s("group")]))
    made.link_error(labelled.s("chord"))
    result = made.apply_async()
    first, *others = [each.id for each in result.results]
    expected = {f"{label}:{each}": 1 for label in ("group", "chord") for each in (first, *others)}
    expected[f"own:{first}"] = 1
    with pytest.raises(ValueError, match="x"):
        result.get(timeout=LONG)
    assert [repr(each.get(timeout=LONG, propagate=False)) for each in result.results] == ["ValueError('x')"] * 3
    wait_for(lambda: expected.items() <= ledger.read(fleet.ledger).items(), LONG, lambda: fleet.worker.output[-2000:])


def test_a_chord_in_a_header_leaves_an_error_callback_to_the_chord_around_it(fleet):
    t, oops, labelled = fleet.t, fleet.tasks["proj.oops"], fleet.tasks["proj.labelled_oops"]
    inner = chord([t.fail.s("x"), t.add.s(1, 1)], t.xsum.s().on_error(oops.s()).on_error(labelled.s("inner")))
    made = chord([inner, t.add.s(1, 1)], t.xsum.s().on_error(oops.s()))
    result = made.apply_async()
    inner_id = result.parent.results[0].id
    wait_for(lambda: ledger.read(fleet.ledger)[f"inner:{inner_id}"] == 1, LONG, lambda: fleet.worker.output[-2000:])
    wait_for(lambda: ledger.read(fleet.ledger)[f"oops:{result.id}"] == 1, LONG, lambda: fleet.worker.output[-2000:])
    assert ledger.read(fleet.ledger)[f"oops:{inner_id}"] == 0


def test_an_error_callback_with_an_argument_of_its_own_and_one_that_is_retried(fleet):
    failing = fleet.t.fail.s("x").on_error(fleet.tasks["proj.labelled_oops"].s("label"))
    failing.link_error(fleet.tasks["proj.labelled_oops"].s(label="named"))
    result = failing.on_error(fleet.tasks["proj.stubborn_oops"].s()).apply_async()
    expected = {f"{tag}:{result.id}": 1 for tag in ("label", "named", "0", "1")}
    wait_for(lambda: expected.items() <= ledger.read(fleet.ledger).items(), LONG, lambda: fleet.worker.output[-2000:])


def test_error_callbacks_of_the_header_if_they_are_wanted(fleet):
    t = fleet.t
    fleet.app.conf.update(task_allow_error_cb_on_chord_header=True)
    try:
        made = chord([t.fail.s("x"), t.add.s(1, 1)], t.xsum.s())
        made.link_error(fleet.app.tasks["proj.oops"].s())
    finally:
        fleet.app.conf.update(task_allow_error_cb_on_chord_header=False)
    result = made.apply_async()
    with pytest.raises(ChordError):
        result.get(timeout=LONG)
    failed = next(each for each in result.parent if each.failed())
    for ident in (result.id, failed.id):
        wait_for(lambda ident=ident: ledger.read(fleet.ledger)[f"oops:{ident}"], LONG)


@pytest.mark.parametrize("how", ["expired", "revoked"])
def test_a_member_that_is_not_run_fails_the_chord(fleet, how):
    t = fleet.t
    member: Any = t.add.s(1, 1)
    if how == "expired":
        member.set(expires=-1)
    else:
        member.set(countdown=3600)
    result = chord([chain(member, t.add.s(1)), t.add.s(2, 2)], t.xsum.s()).apply_async()
    if how == "revoked":
        first = result.parent.results[0].parent
        assert t.add.delay(1, 1).get(timeout=LONG) == 2  # what was sent before has been received
        first.revoke()
    with pytest.raises(ChordError, match="TaskRevokedError"):
        result.get(timeout=LONG)
    with pytest.raises(TaskRevokedError, match=how):
        result.parent.results[0].parent.get(timeout=LONG)


def test_a_saved_group_is_restored_and_revoked(fleet):
    t = fleet.t
    sent = group(t.add.s(1, 1), chain(t.add.s(1, 1), t.add.s(1))).apply_async()
    sent.save()
    again = fleet.app.GroupResult.restore(sent.id)
    assert again == sent
    assert again.get(timeout=LONG) == [2, 3]
    assert [each.parent and each.parent.id for each in again] == [None, sent.results[1].parent.id]
    again.delete()
    assert GroupResult.restore(sent.id, fleet.app) is None
    later = group(t.add.s(n, n) for n in range(3)).apply_async(countdown=3600)
    assert t.add.delay(1, 1).get(timeout=LONG) == 2
    later.revoke()
    for each in later:
        with pytest.raises(TaskRevokedError):
            each.get(timeout=LONG)
    later.forget()
    assert [each.state for each in later] == ["PENDING"] * 3


def test_a_member_that_is_terminated_fails_the_chord(fleet):
    t = fleet.t
    task = "proj.asleep" if fleet.pool == "asyncio" else "proj.sleeptask"
    made = chord([fleet.tasks[task].s(3600), t.add.s(1, 1)], t.xsum.s())
    result = made.apply_async()
    member = result.parent.results[0]
    fleet.worker.wait_line(f"{task}\\[{member.id}\\] received", LONG)
    member.revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(ChordError, match="TaskRevokedError"):
        result.get(timeout=LONG)


def test_a_redelivered_member_counts_once(fleet):
    """The same message once more, as after a lease that lapsed: the body is sent once, with what came first."""
    t, body = fleet.t, fleet.tasks["proj.body"]
    entry = f"twice-{fleet.pool}"
    made = chord([t.add.s(1, 1), fleet.tasks["proj.hold"].s(f"{fleet.ledger}-gate-{entry}")], body.s(entry))
    result = made.apply_async()
    first, second = result.parent.results
    assert first.get(timeout=LONG) == 2
    # What a worker would be given again: the same id, group and body.
    t.add.apply_async(
        (20, 20), task_id=first.id, group_id=result.parent.id, group_index=0, chord=body.s(entry).set(task_id=result.id)
    )
    assert t.add.delay(1, 1).get(timeout=LONG) == 2
    open(f"{fleet.ledger}-gate-{entry}", "w").close()
    assert result.get(timeout=LONG)[0] == 2
    assert second.successful()
    assert t.add.delay(1, 1).get(timeout=LONG) == 2
    assert ledger.read(fleet.ledger)[f"body:{entry}"] == 1


def test_a_member_whose_process_dies_fails_the_chord(redis_url, client, start_worker, ledger_path):
    worker = start_worker("-P", "prefork", "-c", "2", broker=redis_url, backend=redis_url, ledger=ledger_path)
    app = client(redis_url, redis_url)
    t = Tasks.of(app.tasks)
    member = app.tasks["proj.sleeptask"].s(3600, "doomed")
    result = chord([chain(member, t.add.s(1)), t.add.s(1, 1)], t.xsum.s()).apply_async()
    wait_for(lambda: ledger.read(ledger_path)["start:doomed"], LONG, lambda: worker.output[-2000:])
    jobs = [job for jobs in app.control.inspect(timeout=LONG, limit=1).active().values() for job in jobs]
    (pid,) = [job["worker_pid"] for job in jobs if job["name"] == "proj.sleeptask"]
    os.kill(pid, SIGKILL)
    with pytest.raises(ChordError, match="WorkerLostError"):
        result.get(timeout=LONG)
    with pytest.raises(WorkerLostError):
        result.parent.results[0].get(timeout=LONG)


def test_a_chord_survives_the_death_of_all_its_workers(redis_url, client, start_worker, ledger_path):
    """Late ack: what was running at the kill runs again, what had run does not count twice, one body runs."""
    conf = {"task_acks_late": True, "broker_transport_options": {"lease": 2}}
    arrangement = {"broker": redis_url, "backend": redis_url, "ledger": ledger_path, "conf": conf}
    worker = start_worker("-P", "prefork", "-c", "2", **arrangement)
    app = client(redis_url, redis_url)
    t = Tasks.of(app.tasks)
    gate = ledger_path.with_name("gate")
    header = [*(t.add.s(number, number) for number in range(20)), app.tasks["proj.hold"].s(str(gate))]
    result = chord(header, app.tasks["proj.body"].s("survivor")).apply_async()
    assert result.parent.results[0].get(timeout=LONG) == 0
    worker.kill()
    gate.touch()
    start_worker("-P", "prefork", "-c", "2", **arrangement)
    assert result.get(timeout=LONG)[:20] == [2 * number for number in range(20)]
    assert t.add.delay(1, 1).get(timeout=LONG) == 2
    assert ledger.read(ledger_path)["body:survivor"] == 1


def test_without_a_store_that_counts_a_chord_is_refused_where_it_is_called(client, redis_url):
    for backend in ("rpc://", "none://"):
        t = Tasks.of(client(redis_url, backend).tasks)
        with pytest.raises(ConfigError, match="can keep neither chords nor saved groups: set backend"):
            chord([t.add.s(1, 1)], t.xsum.s()).apply_async()
