"""The tests' own tools hold what they promise."""

from __future__ import annotations

import multiprocessing
import signal
import socket
from pathlib import Path

import pytest
import redis

from support import ledger
from support.brokers import PrivateRabbit, PrivateRedis
from support.ports import free_port
from support.processes import alive, members
from support.wait import wait_for


def _append_many(path, first):
    for number in range(first, first + 500):
        ledger.append(path, number)


def test_a_ledger_written_by_many_processes_balances(ledger_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(ledger_path, first)) for first in (0, 500)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    books = ledger.balance(range(1000), ledger_path)
    assert books.balanced
    assert books.ok == ledger.size(ledger_path) == 1000


def test_a_ledger_names_what_is_wrong(ledger_path):
    for entry in ("a", "b", "b", "x"):
        ledger.append(ledger_path, entry)
    books = ledger.balance(["a", "b", "c"], ledger_path)
    assert books == (1, ["c"], ["b"], ["x"])
    assert not books.balanced
    assert str(books) == "1 once, 1 lost (c), 1 duplicated (b), 1 unexpected (x)"


def test_waiting_returns_the_answer_and_fails_with_the_reason():
    answers = iter([None, "", "here"])
    assert wait_for(lambda: next(answers)) == "here"
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for godot"):
        wait_for(lambda: False, 0.01, "godot")


def test_redis_places_do_not_see_each_other(redis_server: PrivateRedis):
    one, two = redis_server.fresh_url(), redis_server.fresh_url()
    with redis.Redis.from_url(one) as first, redis.Redis.from_url(two) as second:
        first.set("key", "value")
        assert second.get("key") is None


def test_redis_can_be_frozen_killed_and_brought_back(tmp_path: Path):
    server = PrivateRedis(tmp_path / "redis", persist=True)
    try:
        server.start()
        with server.client() as client:
            client.set("key", "value")
        server.pause()
        with redis.Redis(port=server.port, socket_timeout=0.05) as client, pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        before = server.pid
        server.restart(gently=False)
        assert server.pid != before
        assert not alive(before)
        with server.client() as client:
            assert client.get("key") == b"value"
    finally:
        server.close()


def test_rabbit_places_do_not_see_each_other(rabbit_server: PrivateRabbit):
    one, two = (rabbit_server.fresh_url().rsplit("/", 1)[1] for _ in range(2))
    assert one != two
    with rabbit_server.connect(one) as first, rabbit_server.connect(two) as second:
        first.channel().queue_declare("q", durable=True, auto_delete=False)
        with pytest.raises(Exception, match="NOT_FOUND"):
            second.channel().queue_declare("q", passive=True)


def test_nothing_of_a_closed_server_is_left():
    server = PrivateRedis()
    server.start()
    pid, directory = server.pid, server.directory
    server.close()
    assert not members(pid)
    assert not directory.exists()


def test_a_celery_worker_runs_and_is_gone_afterwards(start_celery_worker, redis_url, ledger_path):
    worker = start_celery_worker("-P", "solo", broker=redis_url, backend=redis_url, ledger=ledger_path)
    assert "@" in worker.node
    assert worker.stop(signal.SIGTERM) == 0
    assert not members(worker.pid)


def test_a_port_for_a_server_is_none_that_the_system_gives_to_who_connects():
    ports = {free_port() for _ in range(200)}
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert max(ports) < client.getsockname()[1]
    assert len(ports) > 150
