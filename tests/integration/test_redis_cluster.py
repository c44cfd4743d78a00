"""Redis Cluster: three nodes, queues on each; tasks, results, control, and a node that is away for a while."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from framework import chord
from framework._boot import loader
from framework.api.transport import Queue
from framework.exceptions import ConfigError, TaskRevokedError
from framework_drivers.redis.cluster import slot_of
from framework_transports.redis import RedisOptions, RedisTransport
from framework_transports.redis.keys import Keys
from support import ledger
from support.held import LONG
from support.rediskinds import PrivateCluster
from support.wait import wait_for

QUEUES = [f"queue{number}" for number in range(6)]


@pytest.fixture(scope="module")
def cluster(redis_server: Any) -> Iterator[PrivateCluster]:
    # Asked for first only so that a missing one skips here and fails in CI.
    servers = PrivateCluster()
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


@pytest.mark.parametrize("key", ["", "work", "{work}", "a{work}b", "{}work", "a{b", "}a{b}", "{{a}}", "ключ"])
def test_slots_are_those_of_the_specification(key: str) -> None:
    assert slot_of(key) == key_slot(key.encode())


@pytest.mark.parametrize("prefix", ["", "mine:"])
@pytest.mark.parametrize("queue", ["work", "{team}.work"])
def test_all_keys_of_a_queue_share_a_slot(queue: str, prefix: str) -> None:
    keys = Keys(RedisOptions(global_keyprefix=prefix), 0, cluster=True)
    names = [*keys.lists(queue), keys.lease(queue, "me"), keys.leases(queue), keys.list_for(queue, 9)]
    names += [keys.parked(queue), keys.parked_payloads(queue)]
    assert len({slot_of(name) for name in names}) == 1


def test_a_cluster_has_one_database() -> None:
    with pytest.raises(ConfigError, match="number 0 only"):
        RedisTransport("redis-cluster://localhost/1", RedisOptions(), {})


def test_tasks_results_and_control_go_through_a_cluster(
    cluster: PrivateCluster, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    url = cluster.url
    app = client(url, url)
    worker = start_worker(*("-c", "2", "-Q", ",".join(QUEUES)), broker=url, backend=url, ledger=ledger_path)
    assert len({cluster.serving(queue).port for queue in QUEUES}) == 3
    ids = list(range(600))
    sleep = app.tasks["proj.sleep_late"]
    results = app.send_many(sleep.si(0, number).set(queue=QUEUES[number % 6], priority=number % 10) for number in ids)
    assert results.join(timeout=LONG) == [0] * len(ids)
    # Each wakes an idle worker, wherever its queue is.
    for queue in QUEUES:
        assert app.tasks["proj.add"].apply_async((1, 2), queue=queue).get(timeout=LONG) == 3
    # A chord's keys share a slot, too.
    header = [app.tasks["proj.add"].si(number, number).set(queue=QUEUES[number]) for number in range(6)]
    assert chord(header)(app.tasks["proj.xsum"].s().set(queue=QUEUES[0])).get(timeout=LONG) == 30
    assert app.control.ping(timeout=20, limit=1)
    (active,) = app.control.inspect(timeout=20, limit=1).active_queues().values()
    assert Counter(queue["name"] for queue in active) == Counter(QUEUES)
    assert worker.stop() == 0
    expected = [f"{what}:{number}" for what in ("start", "end") for number in ids]
    assert ledger.balance(expected, ledger_path).balanced
    assert "Traceback" not in worker.output
    assert _left(cluster) == 0


def test_tasks_for_later_run_at_their_time_or_are_revoked(
    cluster: PrivateCluster, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    """Parked on three nodes, recalled from all of them; a queue that is busy does not keep another's waiting."""
    url = cluster.url
    app = client(url, url)
    options = {"broker": url, "backend": url, "ledger": ledger_path, "conf": {"worker_eta_park_after": 1}}
    for name in ("one", "two"):
        start_worker("-P", "threads", "-c", "2", "-n", f"{name}@here", "-Q", ",".join(QUEUES), **options)
    record = app.tasks["proj.record"]
    send = partial(record.apply_async, ignore_result=False)
    revoked = [send((f"no{number}",), queue=QUEUES[number % 6], countdown=3600) for number in range(60)]
    timely = [send((f"yes{number}",), queue=QUEUES[number % 6], countdown=3) for number in range(60)]
    for result in timely:
        result.get(timeout=LONG)
    _parked_becomes(app, lambda count: count == 60)
    assert len(app.control.revoke([result.id for result in revoked], reply=True, timeout=LONG, limit=2)) == 2
    for result in revoked:
        with pytest.raises(TaskRevokedError, match="revoked"):
            result.get(timeout=LONG)
    _parked_becomes(app, lambda count: count == 0)
    assert ledger.balance([f"yes{number}" for number in range(60)], ledger_path).balanced


def _parked_becomes(app: Any, wanted: Callable[[int], bool]) -> None:
    with closing(loader.make_transport(app.conf.settings)) as transport:
        wait_for(
            lambda: wanted(sum(transport.parked(Queue(name=name) for name in QUEUES).values())),
            LONG,
            lambda: f"so many to be parked; {transport.parked(Queue(name=name) for name in QUEUES)} are",
        )


def test_what_runs_outlives_the_absence_of_a_node(
    cluster: PrivateCluster, start_worker: Any, client: Any, ledger_path: Path, tmp_path: Path
) -> None:
    url = cluster.url
    app = client(url)
    worker = start_worker("-P", "threads", "-c", "6", "-Q", ",".join(QUEUES), broker=url, ledger=ledger_path)
    gate = tmp_path / "gate"
    for queue in QUEUES:
        app.tasks["proj.hold_late"].apply_async((str(gate), queue), queue=queue)
    starts = [f"start:{queue}" for queue in QUEUES]
    wait_for(lambda: not ledger.balance(starts, ledger_path).lost, LONG, lambda: worker.output[-2000:])
    # Not the one that the URL names.
    node = next(node for node in map(cluster.serving, QUEUES) if node is not cluster.nodes[0])
    node.kill()
    worker.wait_line("Connection to broker lost", timeout=LONG)
    node.start()
    cluster.wait_whole()
    worker.wait_line("Kept the messages of 6 tasks", timeout=LONG)
    worker.wait_line("Connected to", timeout=LONG, count=2)
    gate.touch()
    again = client(url)
    for queue in QUEUES:
        again.tasks["proj.record_late"].apply_async((queue,), queue=queue)
    expected = [*starts, *(f"end:{queue}" for queue in QUEUES), *QUEUES]
    wait_for(lambda: not ledger.balance(expected, ledger_path).lost, LONG, lambda: worker.output[-2000:])
    assert worker.stop() == 0
    assert ledger.balance(expected, ledger_path).balanced
    assert _left(cluster) == 0


def _left(cluster: PrivateCluster) -> int:
    """Return how many messages wait or are on loan."""
    keys = Keys(RedisOptions(), 0, cluster=True)
    with cluster.client() as client:
        waiting = sum(client.llen(name) for queue in QUEUES for name in keys.lists(queue))
        leases = [key for node in cluster.nodes for key in _keys(node)]
        return waiting + sum(client.hlen(key) for key in leases)


def _keys(node: Any) -> list[bytes]:
    with node.client() as client:
        return list(client.scan_iter("framework.lease.*"))
