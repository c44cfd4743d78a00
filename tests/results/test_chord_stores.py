"""Chords and saved groups in the stores that keep them: counting, taking turns, ending, expiring."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from framework.api.plugin import NoOptions
from framework.api.result_store import ChordPart, ResultStore, ResultStoreContext, Turn
from framework.exceptions import ConfigError
from framework_results.none import NoneStore
from framework_results.redis import RedisStore, RedisStoreOptions
from framework_results.rpc import RpcOptions, RpcStore
from framework_results.sqlite import SqliteStore, SqliteStoreOptions
from support.wait import wait_for

Make = Callable[..., ResultStore]
#: Seconds that a turn is kept where the test does not wait for its end.
LONG = 60.0


@pytest.fixture(params=["redis", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Make a store; all of one test keep the same things."""
    url = request.getfixturevalue("redis_url") if kind == "redis" else f"sqlite:///{tmp_path}/results.db"
    stores: list[ResultStore] = []

    def make_store(**settings: Any) -> ResultStore:
        context = ResultStoreContext(**settings)
        store: ResultStore
        if kind == "redis":
            store = RedisStore(url, RedisStoreOptions(), context)
        else:
            store = SqliteStore(url, SqliteStoreOptions(), context)
        stores.append(store)
        return store

    yield make_store
    for store in stores:
        store.close()


@pytest.fixture
def store(make: Make) -> ResultStore:
    return make()


def part(number: float | None, task_id: str | None = None, value: str | None = None) -> ChordPart:
    ident = task_id or f"T{number}"
    return ChordPart("G", ident, number, (value or f"value of {ident}").encode())


def test_the_last_part_gets_the_turn_and_all_parts_in_order(store: ResultStore) -> None:
    store.begin_chord("G", 4)
    for number in (None, 11, 2):
        assert store.return_part(part(number), "a", LONG) is Turn.WAIT
    assert store.return_part(part(0), "b", LONG) is Turn.MINE
    assert store.chord_parts("G") == [f"value of T{number}".encode() for number in (0, 2, 11, None)]
    assert store.hold_turn("G", "b", LONG)
    assert store.end_chord("G", "b", LONG)
    assert store.chord_parts("G") == []
    assert store.return_part(part(2), "c", LONG) is Turn.OVER
    assert not store.hold_turn("G", "c", LONG)


def test_a_task_that_runs_twice_counts_once(store: ResultStore) -> None:
    store.begin_chord("G", 2)
    assert store.return_part(part(0), "a", LONG) is Turn.WAIT
    assert store.return_part(part(0, value="another value"), "b", LONG) is Turn.WAIT
    assert store.return_part(part(1), "c", LONG) is Turn.MINE
    assert store.chord_parts("G") == [b"value of T0", b"value of T1"]


def test_the_turn_belongs_to_one_until_it_lapses(store: ResultStore) -> None:
    store.begin_chord("G", 1)
    assert store.return_part(part(0), "a", LONG) is Turn.MINE
    assert store.return_part(part(0), "b", LONG) is Turn.TAKEN
    assert not store.hold_turn("G", "b", LONG)
    assert not store.end_chord("G", "b", LONG)
    # Who has it gets it again, and may then keep it for as short as it likes.
    assert store.return_part(part(0), "a", 1) is Turn.MINE
    wait_for(lambda: store.return_part(part(0), "b", LONG) is Turn.MINE, 20)
    assert not store.end_chord("G", "a", LONG)
    assert store.end_chord("G", "b", LONG)


def test_parts_without_a_chord_get_no_turn(store: ResultStore) -> None:
    assert store.return_part(part(0), "a", LONG) is Turn.OVER
    store.begin_chord("G", 2)
    store.return_part(part(0), "a", LONG)
    store.fail_chord("G")
    assert store.return_part(part(1), "a", LONG) is Turn.OVER


def test_a_chord_may_grow_and_begin_again(store: ResultStore) -> None:
    store.begin_chord("G", 1)
    store.grow_chord("G")
    assert store.return_part(part(0), "a", LONG) is Turn.WAIT
    assert store.return_part(part(None), "a", LONG) is Turn.MINE
    assert store.end_chord("G", "a", LONG)
    store.begin_chord("G", 1)
    assert store.return_part(part(0), "a", LONG) is Turn.MINE


def test_one_of_many_at_once_gets_the_turn(make: Make) -> None:
    count = 12
    turns: list[Turn] = []
    begin = threading.Barrier(count)

    def bring(number: int) -> None:
        store = make()
        begin.wait(30)
        # Each part comes twice, from two sides.
        turns.append(store.return_part(part(number // 2), f"token {number}", LONG))

    make().begin_chord("G", count // 2)
    threads = [threading.Thread(target=bring, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(turns) == count
    assert turns.count(Turn.MINE) == 1
    assert len(make().chord_parts("G")) == count // 2


def test_groups_are_kept_until_they_are_dropped(store: ResultStore) -> None:
    assert store.fetch_group("G") is None
    store.save_group("G", b"members")
    assert store.fetch_group("G") == b"members"
    store.forget_group("G")
    assert store.fetch_group("G") is None


def test_what_has_expired_is_gone(make: Make) -> None:
    store = make(chord_expires=1.0, expires=1.0)
    store.begin_chord("G", 2)
    store.return_part(part(0), "a", LONG)
    store.save_group("G", b"members")
    wait_for(lambda: store.fetch_group("G") is None, 20)
    wait_for(lambda: store.return_part(part(1), "a", LONG) is Turn.OVER, 20)


def test_redis_keys_are_celerys_and_expire(redis_url: str) -> None:
    store = RedisStore(redis_url, RedisStoreOptions(), ResultStoreContext(expires=500.0, chord_expires=100.0))
    with redis.Redis.from_url(redis_url) as server:
        key = "celery-taskset-meta-G"
        store.begin_chord("G", 3)
        store.grow_chord("G", 2)
        store.return_part(part(1), "a", 6)
        assert {name.decode(): server.type(name).decode() for name in server.scan_iter()} == {
            f"{key}.s": "string",
            f"{key}.t": "string",
            f"{key}.j": "zset",
            f"{key}.d": "set",
        }
        assert (server.get(f"{key}.s"), server.get(f"{key}.t")) == (b"3", b"2")
        assert server.zrange(f"{key}.j", 0, -1, withscores=True) == [(b"value of T1", 1.0)]
        assert server.smembers(f"{key}.d") == {b"T1:1"}
        assert all(0 < server.ttl(name) <= 100 for name in server.scan_iter())
        for number in (None, 0, 2, 3):
            turn = store.return_part(part(number), "token", 6)
        assert turn is Turn.MINE
        assert (server.get(f"{key}.c"), 0 < server.ttl(f"{key}.c") <= 6) == (b"token", True)
        assert store.end_chord("G", "token", 300)
        assert server.keys() == [f"{key}.c".encode()]
        assert (server.get(f"{key}.c"), 6 < server.ttl(f"{key}.c") <= 300) == (b"done", True)
    store.close()


def test_redis_keeps_parts_as_they_come_if_asked_to(redis_url: str) -> None:
    store = RedisStore(redis_url, RedisStoreOptions(result_chord_ordered=False), ResultStoreContext())
    store.begin_chord("G", 2)
    store.return_part(part(1), "a", LONG)
    assert store.return_part(part(0), "a", LONG) is Turn.MINE
    assert store.chord_parts("G") == [b"value of T1", b"value of T0"]
    store.close()


@pytest.mark.parametrize(
    "store",
    [
        pytest.param(NoneStore("", NoOptions(), ResultStoreContext()), id="none"),
        pytest.param(RpcStore("rpc://", RpcOptions(), ResultStoreContext()), id="rpc"),
    ],
)
def test_others_say_which_store_can(store: ResultStore) -> None:
    assert not store.traits.chords
    for refused in (
        lambda: store.begin_chord("G", 1),
        lambda: store.grow_chord("G"),
        lambda: store.return_part(part(0), "a", LONG),
        lambda: store.chord_parts("G"),
        lambda: store.hold_turn("G", "a", LONG),
        lambda: store.end_chord("G", "a", LONG),
        lambda: store.fail_chord("G"),
        lambda: store.save_group("G", b""),
        lambda: store.fetch_group("G"),
        lambda: store.forget_group("G"),
    ):
        with pytest.raises(ConfigError, match=r"sqlite:///results\.db"):
            refused()
