"""Rate limits of running workers (acceptance I 117-125, O 193), on each broker.

Celery's own client sets them on Redis and RabbitMQ, ours on SQLite. Measured is how long many starts take in all, which
is never shorter than the limit allows, but for the first one's being late.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from framework import exitcodes
from support import ledger, queues
from support.brokers import PrivateRedis
from support.fleet import Fleet, running
from support.wait import wait_for

ONE, TWO = "one@here", "two@here"
SET = {"ok": "new rate limit set successfully"}
NEVER = "1/h"
#: Seconds that a start may be late on a busy machine.
LATE = 0.3


@pytest.fixture(scope="module", params=["redis", "amqp", "sqlite"])
def shared(request, tmp_path_factory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("rates")
    options = [("-P", pool, "-c", "2", "--prefetch-multiplier", "1") for pool in ("prefork", "threads")]
    with running(request, request.param, directory, *options) as made:
        yield made


@pytest.fixture
def fleet(shared) -> Iterator[Fleet]:
    """The workers, without limits before and after."""
    yield shared
    shared.tell("rate_limit", "proj.stamp", 0)
    wait_for(lambda: not any(shared.ask("reserved").values()), 20, "what waited to run")
    wait_for(lambda: queues.waiting(shared.url) == 0, 20, "an empty queue")


def stamps(fleet: Fleet, prefix: str) -> list[tuple[float, str]]:
    """Return when and on which node the tasks whose entry begins with `prefix` started, in order."""
    rows = [line.split() for line in ledger.lines(fleet.book)]
    return sorted((float(row[2]), row[1]) for row in rows if len(row) == 3 and row[0].startswith(prefix))


def wait_stamps(fleet: Fleet, prefix: str, count: int, timeout: float = 20) -> list[tuple[float, str]]:
    wait_for(lambda: len(stamps(fleet, prefix)) >= count, timeout, lambda: f"{count}, not {stamps(fleet, prefix)}")
    return stamps(fleet, prefix)


def waiting(fleet: Fleet) -> int:
    return sum(len(tasks) for tasks in fleet.ask("reserved").values())


def wait_rest(fleet: Fleet, prefix: str, count: int) -> int:
    """Wait until of `count` tasks one, or one of each worker, has run and the rest waits; return how many have run."""

    def done() -> int:
        ran = len(stamps(fleet, prefix))
        return ran if ran and waiting(fleet) + ran == count else 0

    ran = wait_for(done, 30, lambda: f"{waiting(fleet)} wait, {len(stamps(fleet, prefix))} ran")
    assert ran <= 2
    return ran


@pytest.mark.acceptance(117, 118, 119, 124)
def test_starts_of_each_worker_are_spaced(fleet):
    assert fleet.tell("rate_limit", "proj.stamp", "300/m") == {ONE: SET, TWO: SET}
    fleet.workers[ONE].wait_line(r"New rate limit for tasks of type proj\.stamp: 300/m\.")
    for number in range(16):
        fleet.send("proj.stamp", f"spaced{number}")
    found = wait_stamps(fleet, "spaced", 16)
    for node in fleet.nodes:
        times = [when for when, where in found if where == node]
        # Each has a limit of its own: it takes both to be twice as fast.
        assert len(times) >= 2
        assert times[-1] - times[0] >= 0.2 * (len(times) - 1) - LATE


@pytest.mark.acceptance(120)
def test_a_destination_is_limited_alone(fleet):
    assert fleet.tell("rate_limit", "proj.stamp", NEVER, to=[ONE]) == {ONE: SET}
    numbers = itertools.count()

    def ran() -> list[str]:
        return [node for _when, node in stamps(fleet, "alone")]

    def each_has_its_own() -> bool:
        # As many as it takes: what waits for the limit is no longer held against the first, which may be the quicker.
        fleet.send("proj.stamp", f"alone{next(numbers)}")
        return waiting(fleet) >= 1 and ran().count(TWO) >= 2

    wait_for(each_has_its_own, 30, lambda: f"one to wait and the other to run: {waiting(fleet)} wait, {ran()} ran")
    assert ran().count(ONE) <= 1


@pytest.mark.acceptance(122, 193)
def test_what_waits_is_reserved_and_runs_when_the_limit_goes(fleet):
    fleet.tell("rate_limit", "proj.stamp", NEVER)
    ids = [fleet.send("proj.stamp", f"kept{number}").id for number in range(10)]
    wait_rest(fleet, "kept", 10)
    reserved = [task for tasks in fleet.ask("reserved").values() for task in tasks]
    assert {task["id"] for task in reserved} < set(ids)
    found = {id_: label for tasks in fleet.ask("query_task", *ids).values() for id_, (label, _info) in tasks.items()}
    assert {found[task["id"]] for task in reserved} == {"reserved"}
    # It comes on top of what the workers take in anyway.
    assert sum(stats["prefetch_count"] for stats in fleet.ask("stats").values()) > 2 * 2
    replies = fleet.tell("rate_limit", "proj.stamp", None)
    assert replies == {node: {"ok": "rate limit disabled successfully"} for node in fleet.nodes}
    wait_stamps(fleet, "kept", 10)
    wait_for(
        lambda: {stats["prefetch_count"] for stats in fleet.ask("stats").values()} == {2}, 10, "the limit of before"
    )


@pytest.mark.acceptance(125)
def test_another_limit_takes_hold_of_what_waits(fleet):
    fleet.tell("rate_limit", "proj.stamp", NEVER)
    for number in range(10):
        fleet.send("proj.stamp", f"faster{number}")
    wait_rest(fleet, "faster", 10)
    fleet.tell("rate_limit", "proj.stamp", "20/s")
    wait_stamps(fleet, "faster", 10)


def test_a_limited_task_holds_back_no_other(fleet):
    fleet.tell("rate_limit", "proj.stamp", NEVER)
    app = fleet.ours
    app.send_many(app.tasks["proj.stamp"].si(f"crowd{number}") for number in range(300))
    for number in range(10):
        fleet.send("proj.record", f"passes{number}")
    for number in range(10):
        fleet.ran(f"passes{number}", timeout=20)
    assert len(stamps(fleet, "crowd")) <= 2
    fleet.tell("rate_limit", "proj.stamp", 0)
    found = wait_stamps(fleet, "crowd", 300, 30)
    assert len(found) == 300


def test_waiting_tasks_expire(fleet):
    fleet.tell("rate_limit", "proj.stamp", NEVER)
    for number in range(6):
        fleet.send("proj.stamp", f"stale{number}", expires=1.0)
    ran = wait_rest(fleet, "stale", 6)
    assert not any(worker.lines("Discarding expired task") for worker in fleet.workers.values())
    fleet.send("proj.sleeptask", 1.2, "past")
    fleet.ran("end:past")
    fleet.tell("rate_limit", "proj.stamp", "50/s")
    wait_for(
        lambda: sum(len(worker.lines("Discarding expired task")) for worker in fleet.workers.values()) == 6 - ran,
        10,
        "the rest to be discarded",
    )
    assert len(stamps(fleet, "stale")) == ran


@pytest.mark.acceptance(123)
@pytest.mark.parametrize("rate", ["200/x", "abc", "-1/s"])
def test_a_bad_rate_is_an_error_that_says_what_is_allowed(fleet, rate):
    error = fleet.tell("rate_limit", "proj.stamp", rate, to=[ONE])[ONE]["error"]
    assert error.startswith(f"Invalid rate limit string: {rate!r}")
    assert '"10/s", "200/m" or "1000/h"' in error


def test_an_unknown_task_is_an_error(fleet):
    assert fleet.tell("rate_limit", "proj.nowhere", "1/s", to=[ONE]) == {ONE: {"error": "unknown task"}}
    fleet.workers[ONE].wait_line("Rate limit attempt for unknown task proj.nowhere")


def test_from_the_command_line(fleet):
    done = fleet.run("control", "rate_limit", "proj.stamp", "7/m", "-d", ONE)
    assert done.returncode == 0, done.stderr
    assert "new rate limit set successfully" in done.stdout
    assert "proj.stamp [rate_limit=7/m]" in fleet.ask("registered", to=[ONE])[ONE]


@pytest.mark.acceptance(121)
def test_workers_may_ignore_limits(redis_url, start_worker, celery_client, client, ledger_path):
    conf = {"worker_disable_rate_limits": True, "task_default_rate_limit": NEVER}
    worker = start_worker("-P", "solo", broker=redis_url, ledger=ledger_path, conf=conf)
    control = celery_client(redis_url).control
    replies = control.rate_limit("proj.record", NEVER, destination=[worker.node], reply=True, timeout=20)
    assert replies[0][worker.node]["ok"].startswith("new rate limit set successfully, without effect")
    app = client(redis_url)
    for number in range(5):
        app.tasks["proj.record"].delay(number)
    wait_for(lambda: ledger.size(ledger_path) == 5, 30, lambda: worker.output[-2000:])


def test_the_default_limit_is_for_every_task(redis_url, start_worker, client, ledger_path):
    worker = start_worker(
        "-P", "threads", "-c", "4", broker=redis_url, ledger=ledger_path, conf={"task_default_rate_limit": NEVER}
    )
    app = client(redis_url)
    for number in range(5):
        app.tasks["proj.record"].delay(number)
        app.tasks["proj.noop"].delay()
    inspect = app.control.inspect(worker.node)
    wait_for(lambda: len(inspect.reserved()) == 8, 30, "all but one of each name to wait")
    # On the way out they go back to where they came from.
    assert worker.stop() == 0
    assert queues.waiting(redis_url) == 8


def test_a_bad_rate_in_the_settings_ends_the_start(redis_url, start_worker):
    worker = start_worker("-P", "solo", broker=redis_url, conf={"task_default_rate_limit": "often"}, ready=False)
    assert worker.wait() == exitcodes.CONFIG
    assert "Invalid rate limit string: 'often'; allowed are" in worker.output
    assert "Traceback" not in worker.output


def test_a_worker_that_stops_gives_back_what_waited_for_its_turn(broker_url, start_worker, client, ledger_path):
    conf = {"task_default_rate_limit": "60/s"}
    options = {"broker": broker_url, "ledger": ledger_path, "conf": conf}
    first = start_worker("-P", "threads", "-c", "2", "-n", "first@here", **options)
    app = client(broker_url)
    sent = list(range(100))
    app.send_many(app.tasks["proj.record_late"].si(number) for number in sent)
    wait_for(lambda: ledger.size(ledger_path) >= 20, 20, "some to run")
    start_worker("-P", "threads", "-c", "2", "-n", "second@here", **options)
    assert first.stop() == 0
    wait_for(lambda: ledger.size(ledger_path) >= len(sent), 20, lambda: str(ledger.balance(sent, ledger_path)))
    assert ledger.balance(sent, ledger_path).balanced


# ---------------------------------------------------------------- limits of the whole cluster

CLUSTER = {"task_rate_limit_scope": "cluster"}


@pytest.mark.parametrize("broker", ["redis", "sqlite", "amqp"])
def test_all_workers_keep_a_limit_together(request, broker, tmp_path, redis_server):
    conf = dict(CLUSTER)
    if broker == "amqp":
        conf["task_rate_limit_store"] = redis_server.fresh_url()
    names = ("a", "b", "c", "d") if broker == "redis" else ("a", "b")
    options = [("-P", "threads", "-c", "2")] * len(names)
    with running(request, broker, tmp_path, *options, names=names, conf=conf) as fleet:
        assert set(fleet.tell("rate_limit", "proj.stamp", "20/s")) == set(fleet.nodes)
        app = fleet.ours
        app.send_many(app.tasks["proj.stamp"].si(f"together{number}") for number in range(40))
        found = wait_stamps(fleet, "together", 40, 30)
        times = [when for when, _node in found]
        assert times[-1] - times[0] >= 39 / 20 - LATE
        assert len({node for _when, node in found}) > 1


def test_while_the_count_is_away_limited_tasks_wait_and_others_run(request, tmp_path, redis_server):
    store = PrivateRedis()
    store.start()
    try:
        conf = CLUSTER | {"task_rate_limit_store": store.url}
        with running(request, "sqlite", tmp_path, ("-P", "threads", "-c", "2"), names=("one",), conf=conf) as fleet:
            fleet.tell("rate_limit", "proj.stamp", "50/s")
            fleet.send("proj.stamp", "before")
            wait_stamps(fleet, "before", 1)
            store.kill()
            for number in range(5):
                fleet.send("proj.stamp", f"during{number}")
                fleet.send("proj.record", f"other{number}")
            for number in range(5):
                fleet.ran(f"other{number}")
            fleet.workers[ONE].wait_line("Cluster-wide rate limits cannot be counted, and their tasks wait")
            assert fleet.ours.control.ping(timeout=20).nodes == {ONE}
            # One start may have been given out before the store went.
            assert len(stamps(fleet, "during")) <= 1
            store.start()
            wait_stamps(fleet, "during", 5)
            fleet.workers[ONE].wait_line("can be counted again")
            assert len(fleet.workers[ONE].lines("cannot be counted, and their tasks wait")) == 1
    finally:
        store.close()


def test_without_anything_to_count_with_the_start_ends(amqp_url, start_worker):
    conf = CLUSTER | {"task_default_rate_limit": "1/s"}
    worker = start_worker("-P", "solo", broker=amqp_url, backend="rpc://", conf=conf, ready=False)
    assert worker.wait() == exitcodes.CONFIG
    assert "set rate_limit_store under [task]" in worker.output
    assert "Traceback" not in worker.output
