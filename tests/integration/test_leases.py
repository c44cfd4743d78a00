"""Leases: a living worker keeps what it has for as long as it takes, a dead one loses it within seconds."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from framework.message import delivery_count
from support import ledger, queues
from support.brokers import PrivateRedis
from support.held import LONG, Held
from support.wait import wait_for

#: Seconds. Each task takes several of them.
LEASE = 1.0
CONF = {"broker_transport_options": {"lease": LEASE}}


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.mark.parametrize(
    ("url", "pool"), [("redis", "prefork"), ("redis", "solo"), ("sqlite", "threads")], indirect=["url"]
)
def test_a_task_that_takes_longer_than_its_lease_runs_once(
    url: str, pool: str, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    app = client(url, **CONF)
    ids = [0] if pool == "solo" else [0, 1]
    # Where the task has the worker's own main thread, it does not even sleep.
    task = app.tasks["proj.spin_late" if pool == "solo" else "proj.sleep_late"]
    app.send_many(task.si(3 * LEASE, number).set(ignore_result=True) for number in ids)
    # The second one has nothing to do but to take what has lapsed.
    workers = [
        start_worker("-P", pool, "-c", str(len(ids)), "-n", f"{name}@here", broker=url, ledger=ledger_path, conf=CONF)
        for name in ("one", "two")
    ]
    expected = [f"{what}:{number}" for what in ("start", "end") for number in ids]
    wait_for(
        lambda: not ledger.balance(expected, ledger_path).lost,
        LONG,
        lambda: f"{ledger.balance(expected, ledger_path)}; {[worker.output[-1500:] for worker in workers]}",
    )
    for worker in workers:
        assert worker.stop() == 0
    assert ledger.balance(expected, ledger_path).balanced
    assert queues.waiting(url) == 0


@pytest.mark.acceptance(229)
@pytest.mark.parametrize(
    ("url", "whole_group"),
    [("redis", False), ("sqlite", True)],
    indirect=["url"],
    ids=["redis-the-worker", "sqlite-its-group"],
)
def test_what_a_killed_worker_had_comes_back_at_the_front_and_is_counted(
    url: str, whole_group: bool, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    held = Held(url, "prefork", start_worker, client, tmp_path, CONF)
    if whole_group:
        held.worker.close()
    else:
        held.worker.kill()
        # They do not outlive it, and what they ran runs nowhere.
        wait_for(lambda: not held.worker.children(), LONG, lambda: f"the end of {held.worker.children()}")
    held.let_go()
    lapsed = time.monotonic() + LEASE
    wait_for(lambda: time.monotonic() > lapsed and _trusts(url), LONG, "the lease to lapse")
    after = start_worker("-c", "1", broker=url, ledger=held.book, conf=CONF)
    late = held.held[: held.late]
    early = held.held[held.late]
    starts = [f"start:{entry}" for entry in late]
    wanted = Counter(dict.fromkeys(starts, 2) | dict.fromkeys([*(f"end:{e}" for e in late), *held.behind], 1))

    def books() -> Counter[str]:
        # The early one may or may not have been acknowledged, a moment after it began.
        return Counter({line: count for line, count in ledger.read(held.book).items() if not line.endswith(early)})

    wait_for(lambda: books() >= wanted, LONG, lambda: str(ledger.lines(held.book)))
    assert after.stop() == 0
    assert books() == wanted
    lines = ledger.lines(held.book)
    # In front of those that came later, in their order.
    assert [line for line in lines[held.slots :] if line in starts] == starts
    assert lines.index(held.behind[0]) > max(lines.index(f"end:{entry}") for entry in late)
    assert queues.waiting(url) == 0


def test_a_put_back_message_says_how_often_it_was_tried(
    redis_server: PrivateRedis, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    url = redis_server.fresh_url()
    held = Held(url, "solo", start_worker, client, tmp_path, CONF)
    held.worker.kill()
    other = start_worker("-c", "1", broker=url, ledger=held.book, conf=CONF)
    wait_for(lambda: ledger.read(held.book)[f"start:{held.held[0]}"] == 2, LONG, lambda: other.output)
    with redis_server.client(int(url.rpartition("/")[2])) as server:
        (key,) = [key for key in server.scan_iter("framework.lease.{celery}.*") if server.hlen(key)]
        # The one that was running; what may wait behind it was on loan to nobody.
        assert max(delivery_count(payload) for payload in server.hvals(key)) == 1
    held.let_go()
    held.wait_for([f"end:{held.held[0]}", *held.behind])
    assert other.stop() == 0


def test_workers_that_were_all_cut_off_for_longer_than_their_leases_leave_each_other_alone(
    private_server: Any, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    server = private_server(lambda: PrivateRedis(persist=True))
    workers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        workers.append(Held(server.url, "threads", start_worker, client, tmp_path / name, CONF, name=name, slots=2))
    with server.client() as watch:
        now = watch.time()[0] * 1000
    server.stop()
    for held in workers:
        held.worker.wait_line("Connection to broker lost", timeout=LONG)
    # Whatever the machine's speed: by the server's own clock they have all lapsed when it is back.
    wait_for(lambda: time.time() * 1000 > now + 2000 * LEASE, 20, "the leases to lapse")
    server.start()
    for held in workers:
        held.is_back()
        held.let_go()
    one, two = workers
    for held in workers:
        held.wait_for([entry for entry in held.expected if entry not in held.behind])
    behind = [*one.behind, *two.behind]
    wait_for(lambda: _ran(workers, behind), LONG, "what waited")
    for held in workers:
        assert held.worker.stop() == 0
    everything = [line for held in workers for line in ledger.lines(held.book)]
    assert sorted(everything) == sorted([*one.expected, *two.expected])
    assert queues.waiting(server.url) == 0


def _trusts(url: str) -> bool:
    """Whether the server has been up for long enough to take a lease that has lapsed for a dead worker's."""
    if url.startswith("sqlite"):
        return True
    with redis.Redis.from_url(url) as server:
        return int(server.info("server")["uptime_in_seconds"]) > 5


def _ran(workers: list[Held], entries: list[str]) -> bool:
    return set(entries) <= {line for held in workers for line in ledger.lines(held.book)}
