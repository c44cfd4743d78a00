"""Tasks that are revoked: on every pool, and by every way to say so (acceptance F 76-80, 88-90, 92, G 93-101).

Each pool has a worker that consumes from a queue of its own. Celery's own client steers them on Redis and
RabbitMQ, ours on SQLite.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from framework.api.transport import Exchange, Queue
from framework.client.results import GroupResult
from framework.message import read
from framework.wire.serialization import decode
from support import ledger
from support.fleet import Fleet, running
from support.proxy import Proxy
from support.wait import wait_for

POOLS = ("prefork", "threads", "solo", "gevent", "eventlet", "asyncio")
SOLO = "solo@here"
LATER = 3600


@pytest.fixture(scope="module", params=["redis", "amqp", "sqlite"])
def fleet(request, tmp_path_factory) -> Iterator[Fleet]:
    # One slot each, and more taken in than that: something waits.
    options = [("-P", pool, "-c", "1", "--prefetch-multiplier", "4", "-Q", pool) for pool in POOLS]
    place = tmp_path_factory.mktemp("revoking")
    # What waits for its time is to wait in the worker.
    conf = {"worker_eta_park_after": 2 * LATER}
    with running(request, request.param, place, *options, names=POOLS, conf=conf) as made:
        yield made


def queues(fleet: Fleet) -> dict[str, str]:
    return {f"{pool}@here": pool for pool in POOLS}


def revoked(fleet: Fleet) -> dict[str, set[str]]:
    return {node: set(ids) for node, ids in fleet.ask("revoked").items()}


def discarded(fleet: Fleet, node: str, task_id: str) -> None:
    fleet.workers[node].wait_line(rf"Discarding revoked task: \S+\[{task_id}\]")


@pytest.mark.acceptance(76, 77, 78, 88)
def test_every_pool_skips_what_waits_for_its_time(fleet):
    ids = {node: fleet.send("proj.add", 1, 1, queue=queue, countdown=LATER).id for node, queue in queues(fleet).items()}
    wait_for(lambda: sum(len(tasks) for tasks in fleet.ask("scheduled").values()) == len(ids), 20, "all to be held")
    wanted = list(ids.values())
    replies = fleet.tell("revoke", wanted)
    assert set(replies) == set(fleet.nodes)
    assert all("flagged as revoked" in reply["ok"] and wanted[0] in reply["ok"] for reply in replies.values())
    for node, task_id in ids.items():
        # At once: what will never run need not wait for its time.
        discarded(fleet, node, task_id)
    assert not any(fleet.ask("scheduled").values())
    # All of them know all ids, whoever held the task.
    assert all(known >= set(wanted) for known in revoked(fleet).values())
    if not fleet.url.startswith("amqp"):
        wait_for(lambda: {fleet.ours.AsyncResult(one).state for one in wanted} == {"REVOKED"}, 30, "their states")


@pytest.mark.acceptance(79)
def test_every_pool_lets_what_runs_go_on(fleet):
    ids = [fleet.send("proj.sleeptask", 0.7, f"on-{queue}", queue=queue).id for queue in POOLS]
    for queue in POOLS:
        fleet.ran(f"start:on-{queue}", timeout=20)
    fleet.tell("revoke", ids)
    for queue in POOLS:
        fleet.ran(f"end:on-{queue}", timeout=20)


def test_every_pool_skips_what_waits_for_a_slot(fleet):
    for queue in POOLS:
        fleet.send("proj.sleeptask", 1.0, f"ahead-{queue}", queue=queue)
        fleet.ran(f"start:ahead-{queue}", timeout=20)
    behind = {
        node: [fleet.send("proj.record", f"behind{number}-{queue}", queue=queue).id for number in range(2)]
        for node, queue in queues(fleet).items()
    }
    fleet.tell("revoke", [ids[0] for ids in behind.values()])
    for node, (first, _second) in behind.items():
        discarded(fleet, node, first)
    for queue in POOLS:
        fleet.ran(f"behind1-{queue}", timeout=20)
    assert not any(entry.startswith("behind0") for entry in ledger.read(fleet.book))


@pytest.mark.acceptance(92)
def test_every_pool_skips_what_is_sent_later(fleet):
    ids = {node: str(uuid.uuid4()) for node in fleet.nodes}
    fleet.tell("revoke", list(ids.values()))
    for node, queue in queues(fleet).items():
        fleet.send("proj.record", f"late-{queue}", queue=queue, task_id=ids[node])
        discarded(fleet, node, ids[node])
    assert not any(entry.startswith("late-") for entry in ledger.read(fleet.book))


def test_what_waits_for_its_turn_is_skipped(fleet):
    fleet.tell("rate_limit", "proj.stamp", "1/h", to=["threads@here"])
    ids = [fleet.send("proj.stamp", f"turn{number}", queue="threads").id for number in range(4)]
    wait_for(lambda: len(fleet.ask("reserved", to=["threads@here"])["threads@here"]) == 3, 30, "3 to wait")
    fleet.tell("revoke", ids[1:3])
    for one in ids[1:3]:
        discarded(fleet, "threads@here", one)
    fleet.tell("rate_limit", "proj.stamp", 0, to=["threads@here"])
    wait_for(lambda: len([line for line in ledger.lines(fleet.book) if line.startswith("turn")]) == 2, 30, "2 to run")


@pytest.mark.acceptance(80, 89)
def test_results_revoke_themselves(fleet):
    """acceptance 80, 89: each is one message, a group's too."""
    settings = fleet.ours.conf.settings
    exchange = Exchange(name="celery.pidbox", type="fanout", durable=False, delivery_mode=1)
    listener = fleet.ours.transport.mailbox()
    listener.subscribe(
        Queue(
            name=f"spy.{uuid.uuid4()}", exchange=exchange, durable=False, exclusive=True, auto_delete=True, no_ack=True
        )
    )
    heard = []

    def hear():
        for _exchange, payload in listener.receive():
            message = read(payload)
            body = decode(message.body, message.content_type, message.content_encoding, None, accept=["json"])
            if body["method"] == "revoke":
                heard.append(body["arguments"]["task_id"])
        return heard

    try:
        app = fleet.ours
        one = fleet.send("proj.record", "form1", queue="threads", countdown=LATER)
        one.revoke()
        two = fleet.send("proj.record", "form2", queue="threads", countdown=LATER).id
        app.AsyncResult(two).revoke()
        three = fleet.send("proj.record", "form3", queue="threads", countdown=LATER).id
        app.control.revoke(three)
        four = [fleet.send("proj.record", f"form4{n}", queue="threads", countdown=LATER) for n in range(3)]
        GroupResult("group", four, app=app).revoke()
        wait_for(lambda: len(hear()) == 4, 30, lambda: f"4 messages, not {heard}")
    finally:
        listener.close()
    assert heard == [one.id, two, three, [result.id for result in four]]
    assert settings.control.exchange == "celery"
    for task_id in (one.id, two, three, *(result.id for result in four)):
        discarded(fleet, "threads@here", task_id)


@pytest.mark.acceptance(90)
def test_from_the_command_line(fleet):
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    done = fleet.run("control", "revoke", *ids, "-d", SOLO)
    assert done.returncode == 0, done.stderr
    assert f"->  {SOLO}: OK" in done.stdout
    assert revoked(fleet)[SOLO] >= set(ids)
    assert not revoked(fleet)["prefork@here"] & set(ids)
    done = fleet.run("control", "unrevoke", ids[0], "-d", SOLO)
    assert "no longer revoked" in done.stdout
    assert revoked(fleet)[SOLO] & set(ids) == {ids[1]}


def test_an_id_that_is_unrevoked_runs(fleet):
    task_id = str(uuid.uuid4())
    control = fleet.ours.control
    control.revoke(task_id, reply=True, limit=len(POOLS), timeout=20)
    replies = control.unrevoke([task_id], reply=True, limit=len(POOLS), timeout=20)
    assert all(
        reply == {"ok": f"tasks {{{task_id!r}}} are no longer revoked"} for one in replies for reply in one.values()
    )
    fleet.send("proj.record", "after-all", queue="prefork", task_id=task_id)
    fleet.ran("after-all")
    assert control.unrevoke("nobody", [SOLO], reply=True, timeout=20) == [
        {SOLO: {"ok": "none of these tasks was revoked"}}
    ]


def test_stamped_tasks_are_skipped_by_their_stamps(fleet):
    def send(entry, stamps, queue="threads", **options):
        headers = {"stamped_headers": list(stamps), "stamps": stamps}
        return fleet.send("proj.record", entry, queue=queue, headers=headers, **options)

    held = send("stamp-held", {"mon": ["red", "blue"]}, countdown=LATER)
    wait_for(lambda: fleet.ask("scheduled", to=["threads@here"])["threads@here"], 30, "one to be held")
    replies = fleet.tell("revoke_by_stamped_headers", {"mon": ["blue", "green"]}, to=["threads@here"])
    assert replies["threads@here"] == {
        "ok": "headers {'mon': ['blue', 'green']} flagged as revoked, but not terminated"
    }
    discarded(fleet, "threads@here", held.id)
    fleet.workers["threads@here"].wait_line(r"\(revoked by header: \{'mon': \['blue'\]\}\)")
    later = send("stamp-later", {"mon": "green"})
    discarded(fleet, "threads@here", later.id)
    send("stamp-other", {"mon": "yellow"})
    send("stamp-elsewhere", {"mon": "green"}, queue="solo")
    fleet.ran("stamp-other")
    fleet.ran("stamp-elsewhere")
    assert ledger.read(fleet.book)["stamp-later"] == 0
    done = fleet.run("control", "revoke_by_stamped_headers", "mon=white", "-d", SOLO)
    assert "headers {'mon': ['white']} flagged as revoked" in done.stdout


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_stamped_tasks_are_terminated_by_their_stamps(fleet, pool):
    node, stamp = f"{pool}@here", f"end-{pool}"
    headers = {"stamped_headers": ["job"], "stamps": {"job": stamp}}
    fleet.send("proj.sleeptask", 0.5, f"spared-{pool}", queue=pool)
    fleet.ran(f"end:spared-{pool}")
    fleet.send("proj.sleeptask", 60, f"ended-{pool}", queue=pool, headers=headers)
    fleet.ran(f"start:ended-{pool}")
    unheard = fleet.tell("revoke_by_stamped_headers", {"job": ["nobody"]}, terminate=True, to=[node])
    assert unheard == {node: {"ok": "headers {'job': ['nobody']} were not terminated"}}
    replies = fleet.tell("revoke_by_stamped_headers", {"job": [stamp]}, terminate=True, to=[node])
    assert replies == {node: {"ok": f"headers {{'job': ['{stamp}']}} revoked"}}
    fleet.send("proj.record", f"next-{pool}", queue=pool)
    fleet.ran(f"next-{pool}", timeout=20)
    assert ledger.read(fleet.book)[f"end:ended-{pool}"] == 0


@pytest.mark.acceptance(99)
@pytest.mark.parametrize("kind", [list, dict, None], ids=["list", "dict", "null"])
def test_hello_takes_what_workers_of_all_ages_send(fleet, kind):
    task_id = str(uuid.uuid4())
    payload = None if kind is None else [task_id] if kind is list else {task_id: 1795219434.5}
    replies = fleet.broadcast("hello", {"from_node": "elder@there", "revoked": payload})
    assert set(replies) == set(fleet.nodes)
    for reply in replies.values():
        assert (task_id in reply["revoked"]) == (kind is not None)
        assert isinstance(reply["clock"], int)
    assert fleet.broadcast("hello", {"from_node": SOLO, "revoked": None})[SOLO] is None


# ---------------------------------------------------------------- across restarts, and among workers


@pytest.mark.acceptance(93)
def test_without_a_file_all_is_forgotten(redis_url, start_worker, client):
    app = client(redis_url)
    first = start_worker("-P", "solo", "-n", "w@here", broker=redis_url)
    app.control.revoke("gone", reply=True, timeout=20)
    assert first.stop() == 0
    start_worker("-P", "solo", "-n", "w@here", broker=redis_url)
    assert app.control.inspect("w@here", timeout=20).revoked() == []


@pytest.mark.acceptance(94, 95)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_with_a_file_it_is_remembered(redis_url, start_worker, client, tmp_path, end, ledger_path):
    app = client(redis_url)
    options = ("-P", "threads", "-c", "1", "-n", "w@here", "-S", f"{tmp_path}/%n.state")
    first = start_worker(*options, broker=redis_url, ledger=ledger_path)
    app.control.revoke(["one", "two"], reply=True, timeout=20)
    app.control.unrevoke("two", reply=True, timeout=20)
    getattr(first, end)()
    assert (tmp_path / "w.state").exists()
    second = start_worker(*options, broker=redis_url, ledger=ledger_path)
    assert app.control.inspect("w@here", timeout=20).revoked() == ["one"]
    app.tasks["proj.record"].apply_async(("never",), task_id="one")
    second.wait_line(r"Discarding revoked task: proj\.record\[one\]")
    assert second.stop() == 0
    assert "never" not in ledger.read(ledger_path)


def test_a_state_file_that_cannot_be_read_is_set_aside(redis_url, start_worker, client, tmp_path):
    app = client(redis_url)
    start_worker("-P", "solo", "-n", "first@here", broker=redis_url)
    app.control.revoke(["one"], reply=True, limit=1, timeout=20)
    (tmp_path / "w.state").write_text("no database")
    worker = start_worker("-P", "solo", "-n", "w@here", "--statedb", str(tmp_path / "w.state"), broker=redis_url)
    assert len(worker.lines(r"ERROR.*w\.state is damaged, or no state file.*renamed to .*w\.state\.damaged-")) == 1
    assert "Traceback" not in worker.output
    (aside,) = tmp_path.glob("w.state.damaged-*")
    assert aside.read_text() == "no database"
    wait_for(lambda: app.control.inspect("w@here", timeout=20).revoked() == ["one"], 30, lambda: worker.output)
    assert worker.stop() == 0


@pytest.mark.acceptance(97)
def test_a_worker_that_starts_learns_what_the_others_know(broker_url, start_worker, client):
    app = client(broker_url)
    first = start_worker("-P", "solo", "-n", "first@here", broker=broker_url)
    first.wait_line("mingle: searching for neighbors")
    first.wait_line("mingle: all alone")
    app.control.revoke(["one", "two"], reply=True, limit=1, timeout=20)
    second = start_worker("-P", "threads", "-n", "second@here", broker=broker_url)
    inspect = app.control.inspect("second@here", timeout=20)
    wait_for(lambda: inspect.revoked() == ["one", "two"], 30, "what the first knows")
    second.wait_line("mingle: sync with 1 nodes")
    second.wait_line("mingle: sync complete")


def test_a_worker_that_starts_tells_what_it_knows(redis_url, start_worker, client, tmp_path):
    app = client(redis_url)
    with_file = ("-P", "solo", "-n", "first@here", "-S", str(tmp_path / "state"))
    first = start_worker(*with_file, broker=redis_url)
    app.control.revoke("one", reply=True, timeout=20)
    first.kill()
    start_worker("-P", "solo", "-n", "second@here", broker=redis_url)
    inspect = app.control.inspect("second@here", timeout=20)
    assert inspect.revoked() == []
    start_worker(*with_file, broker=redis_url)
    wait_for(lambda: inspect.revoked() == ["one"], 30, "what the first had kept")


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_starts_runs_nothing_that_the_others_have_revoked(
    broker_url, pool, start_worker, client, ledger_path
):
    app = client(broker_url)
    start_worker("-P", "solo", "-n", "first@here", "-Q", "elsewhere", broker=broker_url)
    ids = [f"revoked-{number}" for number in range(30)]
    app.control.revoke(ids, reply=True, limit=1, timeout=20)
    for task_id in ids:
        app.tasks["proj.record"].apply_async((task_id,), task_id=task_id)
    app.tasks["proj.record"].apply_async(("runs",), task_id="runs")
    second = start_worker("-P", pool, "-n", "second@here", "-c", "4", broker=broker_url, ledger=ledger_path)
    wait_for(lambda: ledger.read(ledger_path)["runs"] == 1, 60, lambda: second.output[-2000:])
    second.wait_line("Discarding revoked task", count=len(ids))
    assert dict(ledger.read(ledger_path)) == {"runs": 1}


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_worker_that_waits_for_its_broker_asks_before_it_runs(request, broker, start_worker, client, ledger_path):
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url)
    start_worker("-P", "solo", "-n", "first@here", "-Q", "elsewhere", broker=url)
    ids = [f"revoked-{number}" for number in range(30)]
    app.control.revoke(ids, reply=True, limit=1, timeout=20)
    for task_id in ids:
        app.tasks["proj.record"].apply_async((task_id,), task_id=task_id)
    with Proxy(urlsplit(url).port) as proxy:
        proxy.refuse()
        second = start_worker(
            "-P", "threads", "-n", "second@here", broker=proxy.through(url), ledger=ledger_path, ready=False
        )
        second.wait_line("Cannot connect to", timeout=60)
        proxy.accept()
        second.wait_line("Discarding revoked task", timeout=60, count=len(ids))
        assert not ledger.read(ledger_path)


def test_a_worker_that_is_alone_waits_for_nobody(broker_url, start_worker, client, ledger_path):
    """Its tasks are handed to the pool before a second has passed in which somebody might have answered."""
    client(broker_url).tasks["proj.record"].delay("runs")
    worker = start_worker("-P", "solo", "-n", "alone@here", "-l", "debug", broker=broker_url, ledger=ledger_path)
    wait_for(lambda: ledger.read(ledger_path)["runs"] == 1, 60, lambda: worker.output[-2000:])
    worker.wait_line("mingle: no other worker listens")


def test_what_is_learnt_takes_hold_of_what_was_taken_in(redis_url, start_worker, client, ledger_path):
    """The worker consumes before it has heard the others: what it should not run is found among what it holds."""
    app = client(redis_url)
    start_worker("-P", "solo", "-n", "first@here", "-Q", "elsewhere", broker=redis_url)
    app.control.revoke("held", reply=True, timeout=20)
    app.tasks["proj.record"].apply_async(("held",), task_id="held", countdown=LATER)
    conf = {"worker_eta_park_after": 2 * LATER}
    second = start_worker("-P", "solo", "-n", "second@here", broker=redis_url, ledger=ledger_path, conf=conf)
    second.wait_line(r"Discarding revoked task: proj\.record\[held\]")


def test_mingling_can_be_left_out(redis_url, start_worker, client):
    app = client(redis_url)
    start_worker("-P", "solo", "-n", "first@here", broker=redis_url)
    app.control.revoke("one", reply=True, timeout=20)
    second = start_worker("-P", "solo", "-n", "second@here", "--without-mingle", broker=redis_url)
    assert app.control.inspect("second@here", timeout=20).revoked() == []
    assert not second.lines("mingle")


@pytest.mark.acceptance(100)
def test_without_remote_control_nobody_answers(redis_url, start_worker, client, ledger_path):
    app = client(redis_url)
    start_worker("-P", "solo", broker=redis_url, ledger=ledger_path, conf={"worker_enable_remote_control": False})
    assert app.control.revoke("one", reply=True, timeout=0.5) == []
    app.tasks["proj.record"].apply_async(("runs",), task_id="one")
    wait_for(lambda: ledger.read(ledger_path)["runs"] == 1, 30, "the task")


@pytest.mark.acceptance(101)
def test_a_transport_without_fanout_is_told_once(tmp_path, start_worker, ledger_path, client):
    options = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path), "control_folder": str(tmp_path)}
    conf = {"broker_transport_options": options}
    worker = start_worker("-P", "solo", broker="filesystem://", conf=conf, ledger=ledger_path)
    lines = worker.lines("without remote control")
    assert len(lines) == 1
    assert "the transport 'kombu' has no fan-out" in lines[0]
    client("filesystem://", **conf).tasks["proj.record"].delay("still")
    wait_for(lambda: ledger.read(ledger_path)["still"] == 1, 20, lambda: worker.output[-2000:])
