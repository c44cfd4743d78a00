"""Sentinel: the master is killed, a replica takes its place, and the worker goes on there; every task runs once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.exceptions import ConfigError, ConnectionLost
from framework_results.redis import RedisStore, RedisStoreOptions
from framework_transports.redis import RedisOptions, RedisTransport
from support.brokers import PrivateRedis
from support.held import LONG, Held
from support.rediskinds import MASTER, PrivateSentinel
from support.wait import wait_for


@pytest.fixture
def master(private_server: Any) -> PrivateRedis:
    return private_server(PrivateRedis)


@pytest.fixture
def sentinel(master: PrivateRedis, private_server: Any) -> PrivateSentinel:
    return private_server(lambda: PrivateSentinel(master))


def test_the_worker_follows_a_failover(
    master: PrivateRedis, private_server: Any, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    replica = private_server(lambda: PrivateRedis(options=("--replicaof", "127.0.0.1", str(master.port))))
    with master.client() as admin:
        wait_for(lambda: admin.wait(1, 1000) == 1, LONG, "the replica to follow")
    # After them, or it would look again in ten seconds.
    sentinel: PrivateSentinel = private_server(lambda: PrivateSentinel(master))
    sentinel.wait_replica()
    conf = {"broker_transport_options": {"master_name": MASTER}}
    held = Held(sentinel.url, "prefork", start_worker, client, tmp_path, conf)
    with master.client() as admin:
        # What is not copied yet when the master dies is gone, whoever is the broker.
        wait_for(lambda: admin.wait(1, 1000) == 1, LONG, "the replica to have everything")
    master.kill()
    held.worker.wait_line("Connection to broker lost", timeout=LONG)
    held.is_back()
    assert sentinel.master_port() == replica.port
    held.worker.wait_line(f"Kept the messages of {held.late} tasks")
    wait_for(lambda: held.app.control.ping(timeout=1), LONG, lambda: held.worker.output[-3000:])
    held.let_go()
    held.app.tasks["proj.record_late"].delay("new")
    held.balances("new", url=replica.url)


def test_only_a_master_is_taken_for_one(master: PrivateRedis, sentinel: PrivateSentinel, private_server: Any) -> None:
    transport = RedisTransport(sentinel.url, RedisOptions(master_name=MASTER), {})
    transport.consumer().close(requeue=True)
    with master.client() as admin:
        # The Sentinel has not seen it yet.
        admin.replicaof("127.0.0.1", sentinel.port)
        with pytest.raises(ConnectionLost, match="no longer the master"):
            transport.consumer()


def test_results_are_found_through_sentinels(master: PrivateRedis, sentinel: PrivateSentinel) -> None:
    from framework.api.result_store import Record, ResultStoreContext

    store = RedisStore(sentinel.url, RedisStoreOptions(master_name=MASTER), ResultStoreContext())
    store.store([Record("one", b'{"status": "SUCCESS"}', "SUCCESS")])
    assert store.fetch(["one"]) == {"one": b'{"status": "SUCCESS"}'}
    store.close()
    with master.client() as admin:
        assert admin.exists("celery-task-meta-one")


def test_what_is_wrong_is_said_in_a_sentence(sentinel: PrivateSentinel) -> None:
    with pytest.raises(ConfigError, match="master_name"):
        RedisTransport(sentinel.url, RedisOptions(), {})
    with pytest.raises(ConfigError, match="must all be sentinel"):
        RedisTransport("sentinel://one/0;redis://two/0", RedisOptions(master_name=MASTER), {})
    stranger = RedisTransport(sentinel.url, RedisOptions(master_name="stranger"), {})
    with pytest.raises(ConnectionLost, match="has no master 'stranger'"):
        stranger.consumer()
