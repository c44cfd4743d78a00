"""What transports that count for a cluster promise alike: `redis` and `sqlite`."""

from __future__ import annotations

import threading
import time

import pytest

from framework.exceptions import ConnectionLost
from framework_transports.redis import RedisTransport
from framework_transports.sqlite import SqliteOptions, SqliteTransport


@pytest.fixture(params=["redis", "sqlite"])
def transport(request):
    url = request.getfixturevalue(f"{request.param}_url")
    if request.param == "redis":
        return RedisTransport(url, RedisTransport.options_type(), {})
    return SqliteTransport(url, SqliteOptions(), {})


@pytest.fixture
def turnstile(transport):
    made = transport.turnstile()
    yield made
    made.close()
    made.close()


def test_the_trait_says_so(transport):
    assert transport.traits.turnstile


def test_starts_follow_each_other(turnstile):
    assert turnstile.reserve("t", 100.0, 1) == 0.0
    assert turnstile.reserve("t", 100.0, 1) == pytest.approx(100.0, abs=5)
    assert turnstile.reserve("t", 100.0, 3) == pytest.approx(200.0, abs=5)
    assert turnstile.reserve("t", 100.0, 1) == pytest.approx(500.0, abs=5)


def test_names_do_not_mix(turnstile):
    turnstile.reserve("one", 100.0, 5)
    assert turnstile.reserve("two", 100.0, 1) == 0.0


def test_what_was_not_asked_for_is_not_saved_up(turnstile):
    turnstile.reserve("t", 0.001, 1)
    time.sleep(0.01)
    assert turnstile.reserve("t", 100.0, 1) == 0.0
    assert turnstile.reserve("t", 100.0, 1) == pytest.approx(100.0, abs=5)


def test_each_start_is_given_once(transport):
    given = []

    def take():
        turnstile = transport.turnstile()
        for _ in range(50):
            given.append(turnstile.reserve("t", 1000.0, 1))
        turnstile.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [round(wait / 1000) for wait in sorted(given)] == list(range(200))


def test_redis_forgets_what_is_over(redis_server, redis_url):
    transport = RedisTransport(redis_url, RedisTransport.options_type(), {})
    turnstile = transport.turnstile()
    turnstile.reserve("t", 2.0, 3)
    with redis_server.client(int(redis_url.rpartition("/")[2])) as server:
        assert 6000 < server.pttl("framework.starts.t") <= 7000
    turnstile.close()


def test_a_lost_connection_is_said(redis_url):
    turnstile = RedisTransport(redis_url, RedisTransport.options_type(), {}).turnstile()
    turnstile.close()
    with pytest.raises(ConnectionLost):
        turnstile.reserve("t", 1.0, 1)


def test_a_clock_that_began_anew_does_not_stop_anybody(sqlite_url, monkeypatch):
    transport = SqliteTransport(sqlite_url, SqliteOptions(), {})
    turnstile = transport.turnstile()
    turnstile.reserve("t", 100.0, 50)
    before = time.monotonic()
    monkeypatch.setattr("framework_transports.sqlite.turnstile.time.monotonic", lambda: before - 1000.0)
    assert turnstile.reserve("t", 100.0, 1) == 0.0
    turnstile.close()
