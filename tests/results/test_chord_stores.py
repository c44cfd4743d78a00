"""Chords in single stores; what all stores that count promise is in `test_conformance`."""

from __future__ import annotations

import pytest
import redis

from framework.api.plugin import NoOptions
from framework.api.result_store import ChordPart, ResultStore, ResultStoreContext, Turn
from framework.exceptions import ConfigError
from framework_results.none import NoneStore
from framework_results.redis import RedisStore, RedisStoreOptions
from framework_results.rpc import RpcOptions, RpcStore

#: Seconds that a turn is kept where the test does not wait for its end.
LONG = 60.0


def part(number: float | None, task_id: str | None = None, value: str | None = None) -> ChordPart:
    ident = task_id or f"T{number}"
    return ChordPart("G", ident, number, (value or f"value of {ident}").encode())


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
