"""A Redis that is there and refuses: the worker waits, says so once, and goes on; every task runs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from support import ledger
from support.brokers import PrivateRedis
from support.held import LONG, Held
from support.ports import free_port
from support.wait import wait_for


@contextmanager
def read_only(server: PrivateRedis, admin: redis.Redis) -> Iterator[None]:
    """A replica now, of a master that is not there: what a failover leaves behind."""
    admin.replicaof("127.0.0.1", free_port())
    yield
    admin.replicaof("NO", "ONE")


@contextmanager
def no_disk(server: PrivateRedis, admin: redis.Redis) -> Iterator[None]:
    """It cannot save, and takes no writes for that reason."""
    (server.directory / "dump.rdb").mkdir()
    admin.config_set("save", "3600 1000000")
    admin.bgsave()
    wait_for(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", 20, "a failed save")
    yield
    admin.config_set("stop-writes-on-bgsave-error", "no")


@contextmanager
def loading(server: PrivateRedis, admin: redis.Redis) -> Iterator[None]:
    """It starts again, and takes as long to read its data as we like."""
    admin.config_set("rdbcompression", "no")
    # After each of them, being larger than the interval, it answers who asks.
    admin.mset({f"ballast{number}": "x" * 2000 for number in range(2000)})
    admin.save()
    admin.config_set("appendonly", "no")
    server.stop()
    server.options = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
    server.begin()
    yield
    admin.config_set("key-load-delay", "0")
    wait_for(server.answers, 60, "the data to be loaded")


REFUSALS: dict[str, Callable[[PrivateRedis, redis.Redis], Any]] = {
    "READONLY": read_only,
    "MISCONF": no_disk,
    "LOADING": loading,
}


@pytest.mark.parametrize("word", REFUSALS)
def test_a_server_that_refuses_is_waited_for(
    word: str, private_server: Any, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    server = private_server(PrivateRedis)
    conf = {"broker_transport_options": {"lease": 30.0}}
    held = Held(server.url, "threads", start_worker, client, tmp_path, conf)
    with server.client() as admin:
        with REFUSALS[word](server, admin):
            # They end while nothing can be acknowledged; and whoever is idle asks.
            held.let_go()
            held.wait_for([f"end:{entry}" for entry in held.held])
            held.worker.wait_line(word, timeout=LONG)
            before = _connections(admin)
            wait_for(lambda: _connections(admin) >= before + 4, LONG, lambda: held.worker.output[-3000:])
        wait_for(lambda: held.app.control.ping(timeout=1), LONG, lambda: held.worker.output[-3000:])
    held.app.tasks["proj.record_late"].delay("new")
    held.balances("new")
    # The loss, where that is how it is found out, and the attempt after it: not every one that followed.
    assert 1 <= len(held.worker.lines(rf"consumer: .*{word}")) <= 2, held.worker.output


def _connections(admin: redis.Redis) -> int:
    """Return how many connections the server has ever had: each attempt makes one, and remote control another."""
    return int(admin.info("stats")["total_connections_received"])


def test_a_full_server_is_emptied_and_results_wait_for_room(
    private_server: Any, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    server = private_server(PrivateRedis)
    app = client(server.url, server.url)
    ids = list(range(200))
    results = app.send_many(app.tasks["proj.sleep_late"].si(0, number) for number in ids)
    with server.client() as admin:
        admin.config_set("maxmemory", "1mb")
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            admin.set("more", "x")
        worker = start_worker("-c", "2", broker=server.url, backend=server.url, ledger=ledger_path, ready=False)
        worker.wait_line("Results cannot be stored", timeout=LONG)
        admin.config_set("maxmemory", "0")
    assert results.join(timeout=LONG) == [0] * len(ids)
    assert worker.stop() == 0
    expected = [f"{what}:{number}" for what in ("start", "end") for number in ids]
    assert ledger.balance(expected, ledger_path).balanced
    assert len(worker.lines("Results cannot be stored")) == 1
    assert "is lost" not in worker.output


def test_flushed_scripts_and_a_server_emptied_at_run_time_stop_nobody(
    redis_server: PrivateRedis, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    url = redis_server.fresh_url()
    app = client(url, url)
    worker = start_worker("-P", "threads", "-c", "2", broker=url, backend=url, ledger=ledger_path)
    total = 0
    with redis.Redis.from_url(url) as server:
        for upset in (server.script_flush, server.flushdb, server.script_flush):
            results = app.send_many(app.tasks["proj.sleep_late"].si(0, total + number) for number in range(50))
            assert results.join(timeout=LONG) == [0] * 50
            total += 50
            upset()
    app.tasks["proj.sleep_late"].delay(0, total)
    expected = [f"{what}:{number}" for what in ("start", "end") for number in range(total + 1)]
    wait_for(lambda: ledger.size(ledger_path) >= len(expected), LONG, lambda: worker.output[-2000:])
    assert worker.stop() == 0
    assert ledger.balance(expected, ledger_path).balanced
    assert "Traceback" not in worker.output
