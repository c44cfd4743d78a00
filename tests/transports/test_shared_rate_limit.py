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
def limit(transport):
    made = transport.shared_rate_limit()
    yield made
    made.close()
    made.close()


def test_the_trait_says_so(transport):
    assert transport.traits.shared_rate_limit


def test_starts_follow_each_other(limit):
    assert limit.reserve("t", 100.0, 1) == 0.0
    assert limit.reserve("t", 100.0, 1) == pytest.approx(100.0, abs=5)
    assert limit.reserve("t", 100.0, 3) == pytest.approx(200.0, abs=5)
    assert limit.reserve("t", 100.0, 1) == pytest.approx(500.0, abs=5)


def test_names_do_not_mix(limit):
    limit.reserve("one", 100.0, 5)
    assert limit.reserve("two", 100.0, 1) == 0.0


def test_what_was_not_asked_for_is_not_saved_up(limit):
    limit.reserve("t", 0.001, 1)
    time.sleep(0.01)
    assert limit.reserve("t", 100.0, 1) == 0.0
    assert limit.reserve("t", 100.0, 1) == pytest.approx(100.0, abs=5)


def test_each_start_is_given_once(transport):
    given = []

    def take():
        limit = transport.shared_rate_limit()
        for _ in range(50):
            given.append(limit.reserve("t", 1000.0, 1))
        limit.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [round(wait / 1000) for wait in sorted(given)] == list(range(200))


def test_redis_forgets_what_is_over(redis_server, redis_url):
    transport = RedisTransport(redis_url, RedisTransport.options_type(), {})
    limit = transport.shared_rate_limit()
    limit.reserve("t", 2.0, 3)
    with redis_server.client(int(redis_url.rpartition("/")[2])) as server:
        assert 6000 < server.pttl("framework.starts.t") <= 7000
    limit.close()


def test_a_lost_connection_is_said(redis_url):
    limit = RedisTransport(redis_url, RedisTransport.options_type(), {}).shared_rate_limit()
    limit.close()
    with pytest.raises(ConnectionLost):
        limit.reserve("t", 1.0, 1)


def test_a_clock_that_began_anew_does_not_stop_anybody(sqlite_url, monkeypatch):
    transport = SqliteTransport(sqlite_url, SqliteOptions(), {})
    limit = transport.shared_rate_limit()
    limit.reserve("t", 100.0, 50)
    before = time.monotonic()
    monkeypatch.setattr("framework_transports.sqlite.shared_rate_limit.time.monotonic", lambda: before - 1000.0)
    assert limit.reserve("t", 100.0, 1) == 0.0
    limit.close()
