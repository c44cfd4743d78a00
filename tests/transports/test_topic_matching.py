"""The rules by which exchanges choose queues."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework_transports._routing import matches, routes


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("media.video", "media.video", True),
        ("media.video", "media.audio", False),
        ("media.*", "media.video", True),
        ("media.*", "media", False),
        ("media.*", "media.video.hd", False),
        ("*.video", "media.video", True),
        ("*", "media", True),
        ("*", "", False),
        ("*", "media.video", False),
        ("#", "", True),
        ("#", "media.video.hd", True),
        ("media.#", "media", True),
        ("media.#", "media.video.hd", True),
        ("media.#", "mediax", False),
        ("#.hd", "hd", True),
        ("#.hd", "media.video.hd", True),
        ("media.#.hd", "media.hd", True),
        ("media.#.hd", "media.a.b.hd", True),
        ("#.#", "", True),
        ("#.*", "", False),
        ("#.*", "a", True),
        ("*.#.*", "a", False),
        ("*.#.*", "a.b", True),
        ("a+b.*", "aab.c", False),
        ("a+b.*", "a+b.c", True),
        ("task.multi", "task.multi\n", False),
        ("*.x", "a\nb.x", True),
    ],
)
def test_topic(pattern: str, key: str, expected: bool) -> None:
    assert matches(pattern, key) is expected


def slow_but_plain(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(slow_but_plain(pattern[1:], key[start:]) for start in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and slow_but_plain(pattern[1:], key[1:])


words = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5)
keys = st.lists(st.sampled_from(["a", "b"]), max_size=5)


@given(words, keys)
def test_topic_agrees_with_the_definition(pattern: list[str], key: list[str]) -> None:
    assert matches(".".join(pattern), ".".join(key)) is slow_but_plain(pattern, key)


def test_a_hostile_pattern_is_not_slow() -> None:
    assert not matches(".".join(["#", "a"] * 12), ".".join(["a"] * 11 + ["b"]))


def test_a_hostile_pattern_with_more_words_is_not_slow_either() -> None:
    assert not matches(".".join(["#", "a"] * 100), ".".join(["a"] * 1_000 + ["b"]))
    assert not matches(".".join(["#", "*"] * 100), ".".join(["a"] * 99))


def test_types() -> None:
    assert routes("fanout", "x", "y")
    assert routes("direct", "x", "x")
    assert not routes("direct", "*", "x")
    assert routes("topic", "*", "x")
