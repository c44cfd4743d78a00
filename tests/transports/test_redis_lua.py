"""Each Lua script of the Redis transport by itself, on a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framework_transports.redis.scripts import script
from support.brokers import PrivateRedis

LISTS = ["q", "low"]
HASH, DEADLINES = "lease:me", "leases"


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def run(server: redis.Redis, name: str, keys: list[str], *args: Any) -> Any:
    return server.eval(script(name).text, len(keys), *keys, *args)


def reserve(server: redis.Redis, limit: int, *, seq: int = 1, queues: int = 1, first: int = 0, fair: int = 1) -> Any:
    keys = []
    for number in range(queues):
        suffix = str(number) if number else ""
        keys += [name + suffix for name in (*LISTS, HASH, DEADLINES)]
    return run(server, "reserve", keys, "me", limit, 30_000, seq, len(LISTS), first, fair)


def lease_lapsed(server: redis.Redis, consumer: str = "me") -> None:
    server.zadd(DEADLINES, {consumer: 1})


def test_reserve_moves_messages_under_a_lease(server: redis.Redis) -> None:
    server.lpush("q", "a", "b", "c")
    server.lpush("low", "x")
    assert reserve(server, 2) == [[0, 0, b"a", b"b"]]
    assert reserve(server, 9, seq=3) == [[0, 0, b"c"], [0, 1, b"x"]]
    assert reserve(server, 9, seq=5) == []
    assert server.hgetall(HASH) == {b"1:0": b"a", b"2:0": b"b", b"3:0": b"c", b"4:1": b"x"}
    deadline = server.zscore(DEADLINES, "me")
    assert abs(deadline - (time.time() + 30) * 1000) < 5_000
    assert server.exists(*LISTS) == 0


def test_reserve_of_nothing_leaves_no_trace(server: redis.Redis) -> None:
    assert reserve(server, 5) == []
    assert server.keys() == []


def test_reserve_starts_with_the_queue_whose_turn_it_is(server: redis.Redis) -> None:
    for name in ("q", "q1", "q2"):
        server.lpush(name, name + "a", name + "b")
    assert [group[0] for group in reserve(server, 2, queues=3, first=2)] == [2, 0]
    assert reserve(server, 1, seq=3, queues=3, first=1) == [[1, 0, b"q1a"]]


def test_reserve_stops_before_it_changes_anything_when_a_key_is_no_list(server: redis.Redis) -> None:
    server.lpush("q", "a")
    server.set("low", "not a list")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        reserve(server, 5)
    assert server.lrange("q", 0, -1) == [b"a"]
    assert server.exists(HASH) == 0


@given(
    sizes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 40)), min_size=1, max_size=4),
    limit=st.integers(1, 1000),
    fair=st.integers(0, 1),
    first=st.integers(0, 3),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reserve_takes_what_it_says_and_loses_nothing(
    server: redis.Redis, sizes: list[tuple[int, int]], limit: int, fair: int, first: int
) -> None:
    server.flushdb()
    total, high = sum(map(sum, sizes)), sum(size[0] for size in sizes)
    for number, size in enumerate(sizes):
        suffix = str(number) if number else ""
        for name, count in zip(LISTS, size, strict=True):
            if count:
                server.lpush(name + suffix, *range(count))
    groups = reserve(server, limit, queues=len(sizes), first=first % len(sizes), fair=fair)
    taken = sum(len(group) - 2 for group in groups)
    assert taken == min(limit, total)
    # The urgent lists of all queues come first.
    assert sum(len(group) - 2 for group in groups if group[1] == 0) == min(limit, high)
    for group in groups:
        assert [int(value) for value in group[2:]] == list(range(len(group) - 2))
    leased = sum(server.hlen(HASH + (str(number) if number else "")) for number in range(len(sizes)))
    left = sum(server.llen(name + (str(number) if number else "")) for number in range(len(sizes)) for name in LISTS)
    assert (leased, left) == (taken, total - taken)
    if fair and limit <= high:
        counts = [sum(len(group) - 2 for group in groups if group[0] == number) for number in range(len(sizes))]
        short = [count for count, size in zip(counts, sizes, strict=True) if count < size[0]]
        # Queues that could have given more gave about the same.
        assert not short or max(counts) - min(short) <= len(sizes)


def test_requeue_puts_to_the_front_what_is_still_on_loan(server: redis.Redis) -> None:
    server.lpush("q", "a", "b", "c")
    server.lpush("low", "x")
    reserve(server, 2)
    server.hdel(HASH, "1:0")
    assert run(server, "requeue", [HASH, *LISTS], "1:0", "", "2:0", "", "9:1", "") == 1
    assert server.lrange("q", 0, -1) == [b"c", b"b"]
    assert server.exists(HASH) == 0


def test_requeue_takes_a_new_payload(server: redis.Redis) -> None:
    server.lpush("q", "a")
    reserve(server, 1)
    assert run(server, "requeue", [HASH, *LISTS], "1:0", "a again") == 1
    assert server.lrange("q", 0, -1) == [b"a again"]


def test_release_gives_everything_back_in_order(server: redis.Redis) -> None:
    server.lpush("q", *range(30))
    server.lpush("low", "x", "y")
    reserve(server, 32)
    server.lpush("q", "new")
    assert run(server, "release", [HASH, DEADLINES, *LISTS], "me") == 32
    assert [int(value) for value in reversed(server.lrange("q", 1, -1))] == list(range(30))
    assert server.lrange("low", 0, -1) == [b"y", b"x"]
    assert server.exists(HASH, DEADLINES) == 0


def test_renew_extends_own_leases_and_names_lapsed_ones(server: redis.Redis) -> None:
    server.lpush("q", "a")
    reserve(server, 1)
    server.zadd(DEADLINES, {"me": 1, "dead": 2, "alive": time.time() * 1000 + 60_000})
    server.zadd("leases1", {"me": 5})
    lapsed = run(server, "renew", [HASH, DEADLINES, "lease:me1", "leases1"], "me", 30_000)
    assert lapsed == [[b"dead"], []]
    assert server.zscore(DEADLINES, "me") > time.time() * 1000
    # Nothing on loan there, so nothing to renew.
    assert server.exists("leases1") == 0


def test_restore_puts_back_only_what_has_lapsed(server: redis.Redis) -> None:
    server.lpush("q", "a", "b", "c")
    reserve(server, 2)
    keys = [HASH, DEADLINES, *LISTS]
    assert run(server, "restore", keys, "me", "1:0", "A") == -1
    assert server.hlen(HASH) == 2
    lease_lapsed(server)
    assert run(server, "restore", keys, "me", "2:0", "B", "7:0", "gone") == 1
    assert server.zscore(DEADLINES, "me") == 1
    assert run(server, "restore", keys, "me", "1:0", "A", "2:0", "B") == 1
    assert server.lrange("q", 0, -1) == [b"c", b"B", b"A"]
    assert server.exists(HASH, DEADLINES) == 0


def adopt(server: redis.Redis, *fields: str) -> Any:
    return run(server, "adopt", [HASH, "lease:you", DEADLINES, *LISTS], "me", "you", 30_000, *fields)


def test_adopt_moves_what_is_wanted_and_gives_the_rest_back_in_order(server: redis.Redis) -> None:
    server.lpush("q", *range(20))
    server.lpush("low", "x", "y")
    reserve(server, 22)
    server.lpush("q", "new")
    assert adopt(server, "3:0", "22:1", "99:0") == [b"3:0", b"22:1"]
    assert server.hgetall("lease:you") == {b"3:0": b"2", b"22:1": b"y"}
    assert [int(value) for value in reversed(server.lrange("q", 1, -1))] == [n for n in range(20) if n != 2]
    assert server.lindex("q", 0) == b"new"
    assert server.lrange("low", 0, -1) == [b"x"]
    assert server.exists(HASH) == 0
    assert server.zscore(DEADLINES, "me") is None
    assert abs(server.zscore(DEADLINES, "you") - (time.time() + 30) * 1000) < 5_000


def test_adopt_of_nothing_leaves_no_trace(server: redis.Redis) -> None:
    assert adopt(server, "1:0") == []
    assert server.keys() == []


def test_adopt_twice_moves_once(server: redis.Redis) -> None:
    server.lpush("q", "a", "b")
    reserve(server, 2)
    assert adopt(server, "1:0") == [b"1:0"]
    assert adopt(server, "1:0") == []
    assert server.hgetall("lease:you") == {b"1:0": b"a"}
    assert server.lrange("q", 0, -1) == [b"b"]


@pytest.mark.parametrize("name", ["reserve", "renew", "adopt", "requeue", "release", "restore"])
def test_a_full_server_can_be_emptied(name: str, request: pytest.FixtureRequest) -> None:
    own = PrivateRedis()
    request.addfinalizer(own.close)
    own.start()
    with own.client() as server:
        server.lpush("q", "a", "b")
        if name != "reserve":
            assert reserve(server, 2) == [[0, 0, b"a", b"b"]]
        if name in ("renew", "restore"):
            lease_lapsed(server)
        server.config_set("maxmemory", "1mb")
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            server.lpush("q", "c")
        if name == "reserve":
            assert reserve(server, 2) == [[0, 0, b"a", b"b"]]
        elif name == "renew":
            assert run(server, "renew", [HASH, DEADLINES], "me", 30_000) == [[]]
            assert server.zscore(DEADLINES, "me") > time.time() * 1000
        elif name == "adopt":
            assert adopt(server, "1:0") == [b"1:0"]
            assert (server.hlen("lease:you"), server.llen("q")) == (1, 1)
        elif name == "requeue":
            assert run(server, "requeue", [HASH, *LISTS], "1:0", "", "2:0", "B") == 2
        elif name == "release":
            assert run(server, "release", [HASH, DEADLINES, *LISTS], "me") == 2
        else:
            assert run(server, "restore", [HASH, DEADLINES, *LISTS], "me", "1:0", "A", "2:0", "B") == 2


def test_takeover_needs_an_overdue_tag(server: redis.Redis) -> None:
    server.zadd("index", {"t1": 100, "t2": 300})
    server.hset("unacked", mapping={"t1": "raw", "t2": "raw"})
    keys = ["index", "unacked", *LISTS]
    assert run(server, "takeover", keys, "t2", "200", "new") == 0
    assert run(server, "takeover", keys, "t1", "200", "new") == 1
    assert run(server, "takeover", keys, "t1", "200", "new") == 0
    assert server.lrange("q", 0, -1) == server.lrange("low", 0, -1) == [b"new"]
    assert server.hkeys("unacked") == [b"t2"]


def test_bind_never_shortens_a_deadline(server: redis.Redis) -> None:
    keys = ["bindings", "deadlines"]
    run(server, "bind", keys, "member", "ex", 60_000)
    first = server.zscore("deadlines", "ex")
    run(server, "bind", keys, "member", "ex", 1_000)
    assert server.zscore("deadlines", "ex") == first
    run(server, "bind", keys, "member", "ex", 120_000)
    assert server.zscore("deadlines", "ex") > first
    assert server.smembers("bindings") == {b"member"}


PARKED, SHELF = "parked", "shelf"
#: So many share a key.
ALIKE = 3


def park(server: redis.Redis, *entries: object, consumer: str = "me") -> int:
    return int(run(server, "park", [HASH, PARKED, SHELF], consumer, ALIKE, *entries))


def due(server: redis.Redis, limit: int = 500) -> list[int]:
    return [int(value) for value in run(server, "due", [PARKED, SHELF, *LISTS], len(LISTS), limit)]


def recall(server: redis.Redis, *keys: str, seq: int = 100, lists: int = len(LISTS)) -> Any:
    return run(server, "recall", [PARKED, SHELF, HASH, DEADLINES], "me", 30_000, seq, lists, *keys)


def shelve(server: redis.Redis, values: dict[str, str], times: dict[str, float]) -> None:
    server.hset(SHELF, mapping=values)
    server.zadd(PARKED, times)


def test_park_moves_what_is_on_loan_and_nothing_else(server: redis.Redis) -> None:
    server.lpush("q", "a", "b")
    reserve(server, 2)
    assert park(server, "1:0", 60_000, "key", "9:0", 1, "other") == 1
    assert server.hgetall(HASH) == {b"2:0": b"b"}
    assert server.hgetall(SHELF) == {b"key": b"0:a"}
    [(member, when)] = server.zrange(PARKED, 0, -1, withscores=True)
    assert member == b"key"
    assert abs(when / 1000 - time.time() - 60) < 10
    # Said again, as after a connection that was lost.
    assert park(server, "1:0", 60_000, "key") == 0
    assert server.zcard(PARKED) == server.hlen(SHELF) == 1


def test_what_is_alike_stays_as_many_as_it_was(server: redis.Redis) -> None:
    server.lpush("q", *["same"] * 6)
    reserve(server, 5)
    # Two without a key, and one more than can share one.
    assert park(server, "1:0", 0, "", "2:0", 0, "", "3:0", 0, "key", "4:0", 0, "key", "5:0", 0, "key") == 5
    reserve(server, 1, seq=1)
    assert park(server, "1:0", 0, "key", consumer="other") == 1
    fields = {b"\n1:me", b"\n2:me", b"key", b"key\n1", b"key\n2", b"\n1:other"}
    assert set(server.zrange(PARKED, 0, -1)) == fields
    assert set(server.hkeys(SHELF)) == {*fields, b"\n"}
    assert due(server) == [6, -1]
    assert server.lrange("q", 0, -1) == [b"same"] * 6
    assert not server.exists(PARKED, SHELF)


def test_due_puts_back_what_is_due_first_things_first(server: redis.Redis) -> None:
    payloads = {"a": "line\nbreak", "b": "\x00\xff:1:", "c": "", "late": "late", "low": "low"}
    times = {"c": 3.0, "b": 2.0, "a": 1.0, "low": 1.0, "late": (time.time() + 1000) * 1000}
    shelve(server, {key: f"{int(key == 'low')}:{payload}" for key, payload in payloads.items()}, times)
    server.lpush("q", "waits")
    count, wait = due(server)
    assert count == 4
    assert 900_000 < wait <= 1_000_000
    # The right end is served first.
    assert server.lrange("q", 0, -1) == [each.encode() for each in ("waits", "", "\x00\xff:1:", "line\nbreak")]
    assert server.lrange("low", 0, -1) == [b"low"]
    assert server.zcard(PARKED) == server.hlen(SHELF) == 1


def test_due_takes_a_bounded_number_at_a_time(server: redis.Redis) -> None:
    numbers = [str(number) for number in range(25)]
    shelve(server, {each: f"0:{each}" for each in numbers}, {each: int(each) for each in numbers})
    assert [due(server, 10) for _ in range(4)] == [[10, 0], [10, 0], [5, -1], [0, -1]]
    assert server.llen("q") == 25
    assert server.keys() == [b"q"]


def test_due_of_nothing_leaves_no_trace(server: redis.Redis) -> None:
    assert due(server) == [0, -1]
    assert server.keys() == []


def test_a_priority_that_is_no_more_is_served_last(server: redis.Redis) -> None:
    shelve(server, {"x": "7:x", "y": "7:y"}, {"x": 1, "y": 1})
    assert recall(server, "y") == [[0, 1, b"y"]]
    assert due(server) == [1, -1]
    assert server.lrange("low", 0, -1) == [b"x"]
    assert server.hgetall(HASH) == {b"100:1": b"y"}


def test_a_time_without_a_message_is_forgotten(server: redis.Redis) -> None:
    server.zadd(PARKED, {"lost": 1, "kept": 1})
    server.hset(SHELF, "kept", "0:kept")
    assert due(server) == [2, -1]
    assert server.lrange("q", 0, -1) == [b"kept"]
    assert server.keys() == [b"q"]


def test_recall_leases_what_is_parked_under_the_keys(server: redis.Redis) -> None:
    server.lpush("q", "a", "b\n\x00", "c")
    server.lpush("low", "x")
    reserve(server, 4)
    park(server, "1:0", 60_000, "a", "2:0", 0, "b", "3:0", 60_000, "c", "4:1", 60_000, "x")
    server.delete(DEADLINES)
    assert recall(server, "x", "none", "b", "b", seq=7) == [[0, 1, b"x"], [0, 0, b"b\n\x00"]]
    assert server.hgetall(HASH) == {b"7:1": b"x", b"8:0": b"b\n\x00"}
    assert server.hgetall(SHELF) == {b"a": b"0:a", b"c": b"0:c"}
    assert set(server.zrange(PARKED, 0, -1)) == {b"a", b"c"}
    assert abs(server.zscore(DEADLINES, "me") - (time.time() + 30) * 1000) < 5_000
    assert recall(server, "x", "b") == []


def test_recall_finds_what_shares_a_key_whichever_has_gone(server: redis.Redis) -> None:
    server.lpush("q", "a", "b", "c")
    reserve(server, 3)
    park(server, "1:0", 0, "key", "2:0", 60_000, "key", "3:0", 60_000, "key")
    assert due(server)[0] == 1
    assert recall(server, "key") == [[0, 0, b"b"], [0, 0, b"c"]]
    assert not server.exists(PARKED, SHELF)


def test_recall_of_many_keys(server: redis.Redis) -> None:
    numbers = [str(number) for number in range(3000)]
    shelve(server, {each: f"0:{each}" for each in numbers}, {each: int(each) for each in numbers})
    server.hset(SHELF, mapping={"5\n1": "0:again", "\n": 1})
    server.zadd(PARKED, {"5\n1": 1})
    found = recall(server, *(str(number) for number in range(2900)), "none")
    assert sorted(payload for *_, payload in found) == sorted([b"again", *(b"%d" % number for number in range(2900))])
    assert server.zcard(PARKED) == 100
    assert server.hlen(HASH) == 2901


def test_recall_of_several_queues_names_each(server: redis.Redis) -> None:
    keys: list[str] = []
    for number in "01":
        server.hset(SHELF + number, "key", f"0:{number}")
        server.zadd(PARKED + number, {"key": 1})
        keys += [name + number for name in (PARKED, SHELF, HASH, DEADLINES)]
    assert run(server, "recall", keys, "me", 30_000, 1, 2, "key") == [[0, 0, b"0"], [1, 0, b"1"]]
    assert server.hgetall(HASH + "0") == {b"1:0": b"0"}
    assert server.hgetall(HASH + "1") == {b"2:0": b"1"}
    assert server.zcard(DEADLINES + "0") == server.zcard(DEADLINES + "1") == 1


def test_recall_of_nothing_leaves_no_trace(server: redis.Redis) -> None:
    assert recall(server, "a", "b") == []
    assert server.keys() == []


def test_a_full_server_parks_and_brings_back(server: redis.Redis) -> None:
    server.lpush("q", "a" * 1000, "b" * 1000)
    server.config_set("maxmemory", "1mb")
    try:
        reserve(server, 2)
        assert park(server, "1:0", 0, "a", "2:0", 60_000, "b") == 2
        assert due(server)[0] == 1
        assert recall(server, "b") == [[0, 0, b"b" * 1000]]
    finally:
        server.config_set("maxmemory", "0")
    assert server.llen("q") == 1
