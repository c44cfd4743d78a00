"""Workflows between ours and Celery's: clients and workers of both kinds, and chords that both work on (S 224, 228)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import celery
import celery.exceptions
import celery.result
import pytest

import framework
from framework.exceptions import ChordError
from support import celeryproj, ledger, proj, workers
from support.wait import wait_for
from support.workflows import CASES, FAILING, Tasks

LONG = 40
QUIET = ("--without-gossip", "--without-mingle")


@contextlib.contextmanager
def running(request, tmp_path_factory, theirs: bool, *workers_: tuple[bool, str]) -> Iterator[SimpleNamespace]:
    """A client, Celery's if `theirs`, and workers: whether Celery's, and the pool."""
    server = request.getfixturevalue("redis_server")
    url, results = server.fresh_url(), server.fresh_url()
    book = tmp_path_factory.mktemp("fleet") / "ledger"
    env = workers.app_environment(broker=url, backend=results, ledger=book)
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(
            celeryproj.closing(celeryproj.make_app(url, results))
            if theirs
            else contextlib.closing(proj.make_app(url, results))
        )
        started = []
        for celerys, pool in workers_:
            start, quiet = (workers.start_celery_worker, QUIET) if celerys else (workers.start_worker, ())
            started.append(stack.enter_context(start(None, "-P", pool, "-c", "2", *quiet, env=env)))
        for worker in started:
            worker.wait_ready()
        yield SimpleNamespace(
            app=app,
            canvas=celery if theirs else framework,
            t=Tasks.of(app.tasks),
            tasks=app.tasks,
            ledger=book,
            workers=started,
        )


FLEETS = {
    **{
        f"celery-client-our-{pool}": (True, (False, pool))
        for pool in ("prefork", "threads", "solo", "gevent", "eventlet", "asyncio")
    },
    "our-client-celery-worker": (False, (True, "threads")),
    "our-client-both-workers": (False, (False, "threads"), (True, "threads")),
    "celery-client-both-workers": (True, (False, "prefork"), (True, "threads")),
}


def outcome(result):
    """What `result` comes to, by the client's own means."""
    theirs = isinstance(result, celery.result.ResultBase)
    return celeryproj.outcome(result, LONG) if theirs else result.get(timeout=LONG)


@pytest.fixture(scope="module", params=FLEETS.values(), ids=FLEETS)
def fleet(request, tmp_path_factory) -> Iterator[SimpleNamespace]:
    with running(request, tmp_path_factory, *request.param) as made:
        yield made


@pytest.mark.acceptance(224, 226)
@pytest.mark.parametrize("name", CASES)
def test_workflow(fleet, name):
    make, value = CASES[name]
    assert outcome(make(fleet.canvas, fleet.t).apply_async()) == value


@pytest.mark.acceptance(224)
def test_a_chord_with_a_failure_fails(fleet):
    result = FAILING["a member fails"](fleet.canvas, fleet.t).apply_async()
    # Celery's client raises what the header has raised, if it has by the time that it asks.
    with pytest.raises((ChordError, celery.exceptions.ChordError, ValueError), match="x"):
        outcome(result)


NESTED = {
    "chord": lambda c, t: c.chord([t.fail.s("x"), t.add.s(1, 1)], t.xsum.s()),
    "chord in a chord": lambda c, t: c.chord(
        [c.chord([t.fail.s("x"), t.add.s(1, 1)], t.xsum.s()), t.add.s(1, 1)], t.xsum.s()
    ),
    "chord with a chain": lambda c, t: c.chord([t.fail.s("x"), t.add.s(1, 1)], c.chain(t.xsum.s(), t.echo.s())),
}


@pytest.mark.parametrize("celerys", [False, True], ids=["our-worker", "celery-worker"])
def test_error_callbacks_that_are_sent_are_children_of_a_failed_body(celerys, request, tmp_path_factory):
    """Celery's client finds them, as Celery's worker stores them."""
    with running(request, tmp_path_factory, True, (celerys, "threads")) as fleet:
        c, t = fleet.canvas, fleet.t
        result = c.chord([t.fail.s("x"), t.add.s(1, 1)], t.xsum.s().on_error(t.add.s("!"))).apply_async()
        wait_for(lambda: result.children and result.children[0].children[0].ready(), LONG)
        assert result.children[0].children[0].result == f"{result.id}!"


FAILING_GROUPS = {
    "tasks": lambda c, t: c.group(t.xsum.s(), t.echo.s()),
    "a chain": lambda c, t: c.group(c.chain(t.xsum.s(), t.echo.s()), t.xsum.s()),
    "a chord": lambda c, t: c.group(c.chord([t.xsum.s(), t.xsum.s()], t.echo.s()), t.xsum.s()),
    "a group": lambda c, t: c.group(c.group(t.xsum.s()), t.echo.s()),
}


#: Celery says that its setting `task_allow_error_cb_on_chord_header` will go.
quiet = pytest.mark.filterwarnings("ignore:task_allow_error_cb_on_chord_header")


@quiet
def test_an_error_callback_runs_once_when_a_chord_in_the_header_fails(request, tmp_path_factory):
    """Celery's client links it to the chords in the header, too."""
    with running(request, tmp_path_factory, True, (False, "threads")) as fleet:
        c, t = fleet.canvas, fleet.t
        expected = {}
        for make in NESTED.values():
            made = c.chord([make(c, t), t.add.s(2, 2)], t.xsum.s())
            made.link_error(c.signature("proj.oops", app=fleet.app))
            # Sent, and therefore after those that are called, by each chord that fails.
            made.link_error(c.signature("proj.labelled_oops", ("failed",), app=fleet.app))
            result = made.apply_async()
            expected |= {f"oops:{result.id}": 1, f"failed:{result.id}": 1}
        wait_for(lambda: expected.items() <= ledger.read(fleet.ledger).items(), LONG)
        # What was sent before has run when this has.
        assert [t.add.delay(1, 1).get(timeout=LONG) for _ in range(4)] == [2] * 4
        assert ledger.read(fleet.ledger) == expected


@quiet
def test_each_task_of_a_body_that_is_a_group_fails_as_the_header_did(request, tmp_path_factory):
    with running(request, tmp_path_factory, True, (False, "threads")) as fleet:
        c, t = fleet.canvas, fleet.t
        results = []
        for make in FAILING_GROUPS.values():
            made = c.chord([t.fail.s("x"), t.add.s(1, 1)], make(c, t))
            made.link_error(fleet.tasks["proj.oops"].s())
            results += made.apply_async().results
        expected = {f"oops:{each.id}": 1 for each in results}
        wait_for(lambda: expected.items() <= ledger.read(fleet.ledger).items(), LONG)
        assert [(each.state, repr(each.result)) for each in results] == [("FAILURE", "ValueError('x')")] * len(results)


@pytest.mark.acceptance(228)
def test_every_body_of_a_mixed_fleet_runs_exactly_once(request, tmp_path_factory):
    """200 chords, half from each client, with Celery's workers and ours at one queue."""
    both = ((False, "prefork"), (True, "threads"))
    with running(request, tmp_path_factory, False, *both) as fleet:
        url, results = fleet.app.conf.settings.broker.url, fleet.app.conf.settings.result.backend
        with celeryproj.closing(celeryproj.make_app(url, results)) as other:
            sent = []
            for number in range(100):
                for canvas, tasks in ((framework, fleet.tasks), (celery, other.tasks)):
                    add, body = tasks["proj.add"], tasks["proj.body"]
                    header = [add.s(number, each) for each in range(5)]
                    entry = f"{canvas.__name__}-{number}"
                    sent.append((number, entry, canvas.chord(header, body.s(entry)).apply_async()))
            for number, _entry, result in sent:
                assert outcome(result) == [number + each for each in range(5)]
        told = [worker.output for worker in fleet.workers]
        ran = ledger.read(fleet.ledger)
    assert {entry: ran[f"body:{entry}"] for _, entry, _ in sent} == {entry: 1 for _, entry, _ in sent}
    # A test of sharing: both have had a part in it.
    assert all("proj.add" in output for output in told)


@pytest.mark.acceptance(228)
@pytest.mark.parametrize("last", ["ours", "celerys"])
def test_whoever_finishes_last_sends_the_body(last, request, tmp_path_factory):
    """A header of two tasks in two queues, each served by one kind of worker, of which one waits for the other."""
    server = request.getfixturevalue("redis_server")
    url, results = server.fresh_url(), server.fresh_url()
    place = tmp_path_factory.mktemp("fleet")
    env = workers.app_environment(broker=url, backend=results, ledger=place / "ledger")
    with (
        contextlib.closing(proj.make_app(url, results)) as app,
        workers.start_worker(None, "-P", "threads", "-c", "2", "-Q", "ours", env=env) as ours,
        workers.start_celery_worker(None, "-P", "threads", "-c", "2", "-Q", "celerys", *QUIET, env=env) as theirs,
    ):
        ours.wait_ready()
        theirs.wait_ready()
        first = "celerys" if last == "ours" else "ours"
        gate = place / "gate"
        t = app.tasks
        body = t["proj.body"].s("once").set(queue="ours")
        header = [t["proj.add"].s(1, 1).set(queue=first), t["proj.hold"].s(str(gate)).set(queue=last)]
        result = framework.chord(header, body).apply_async()
        assert result.parent.results[0].get(timeout=LONG) == 2
        assert not result.ready()
        gate.touch()
        assert result.get(timeout=LONG)[0] == 2
        wait_for(lambda: ledger.read(place / "ledger")["body:once"] == 1, LONG)
