"""Promise 5: the store counts the parts of a chord, gives one worker the turn to send the body, and keeps groups."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from framework.api.result_store import ChordPart, ResultStore, Turn
from framework.exceptions import ConfigError
from framework.testing.result_stores.base import Bench, ResultStoreSuiteBase, needs
from framework.testing.wait import wait_for

#: Lease of a turn, in seconds, in tests that do not wait for its end.
LONG: Final = 600.0


def part(group: str, number: float | None, value: str | None = None) -> ChordPart:
    """Return the part of the task at position `number` of the header."""
    return ChordPart(group, f"T{number}", number, (value or f"value of T{number}").encode())


class ChordPromises(ResultStoreSuiteBase):
    """Tests of chords and groups."""

    @needs("chords")
    def test_the_last_part_gets_the_turn_and_all_parts_in_order(self, bench: Bench) -> None:
        """The last part gets the turn and all parts in header order; after `end_chord` the chord no longer exists."""
        store, [group] = bench.worker(), bench.ids(1)
        store.begin_chord(group, 4)
        for number in (None, 11, 2):
            assert store.return_part(part(group, number), "a", LONG) is Turn.WAIT
        assert store.return_part(part(group, 0), "b", LONG) is Turn.MINE
        assert store.chord_parts(group) == [f"value of T{number}".encode() for number in (0, 2, 11, None)]
        assert store.hold_turn(group, "b", LONG)
        assert store.end_chord(group, "b", LONG)
        assert store.chord_parts(group) == []
        assert store.return_part(part(group, 2), "c", LONG) is Turn.OVER
        assert not store.hold_turn(group, "c", LONG)

    @needs("chords")
    def test_a_task_that_runs_twice_counts_once(self, bench: Bench) -> None:
        """A part that is returned twice counts once, with its first value."""
        store, [group] = bench.worker(), bench.ids(1)
        store.begin_chord(group, 2)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.WAIT
        assert store.return_part(part(group, 0, "another value"), "b", LONG) is Turn.WAIT
        assert store.return_part(part(group, 1), "c", LONG) is Turn.MINE
        assert store.chord_parts(group) == [b"value of T0", b"value of T1"]

    @needs("chords")
    def test_the_turn_belongs_to_one_until_it_lapses(self, bench: Bench) -> None:
        """Only the holder of the turn can end the chord, until its lease expires and another worker gets the turn."""
        store, [group] = bench.worker(), bench.ids(1)
        store.begin_chord(group, 1)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.MINE
        assert store.return_part(part(group, 0), "b", LONG) is Turn.TAKEN
        assert not store.hold_turn(group, "b", LONG)
        assert not store.end_chord(group, "b", LONG)
        # The holder can take the turn again, with a shorter lease.
        assert store.return_part(part(group, 0), "a", 1.0) is Turn.MINE
        wait_for(
            lambda: store.return_part(part(group, 0), "b", LONG) is Turn.MINE,
            self.patience,
            lambda: "the lease of the turn to expire",
        )
        assert not store.end_chord(group, "a", LONG)
        assert store.end_chord(group, "b", LONG)

    @needs("chords")
    def test_parts_without_a_chord_get_no_turn(self, bench: Bench) -> None:
        """A part gets no turn before the chord has begun or after its body has failed."""
        store, [group] = bench.worker(), bench.ids(1)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.OVER
        store.begin_chord(group, 2)
        store.return_part(part(group, 0), "a", LONG)
        store.fail_chord(group)
        assert store.return_part(part(group, 1), "a", LONG) is Turn.OVER

    @needs("chords")
    def test_parts_count_that_are_returned_before_their_number_is_known(self, bench: Bench) -> None:
        """`grow_chord` by nothing announces a chord: its parts are kept, get no turn, and count once it has begun."""
        store, [group] = bench.worker(), bench.ids(1)
        store.grow_chord(group, 0)
        for number in (1, 0, 1):
            assert store.return_part(part(group, number), "a", LONG) is Turn.OVER
        store.begin_chord(group, 3)
        assert store.return_part(part(group, 2), "a", LONG) is Turn.MINE
        assert store.chord_parts(group) == [f"value of T{number}".encode() for number in range(3)]

    @needs("chords")
    def test_a_chord_may_grow_and_begin_again(self, bench: Bench) -> None:
        """A chord can get more parts after it has begun, and its group id can be used again after its end."""
        store, [group] = bench.worker(), bench.ids(1)
        store.begin_chord(group, 1)
        store.grow_chord(group)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.WAIT
        assert store.return_part(part(group, None), "a", LONG) is Turn.MINE
        assert store.end_chord(group, "a", LONG)
        store.begin_chord(group, 1)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.MINE

    @needs("chords")
    def test_one_of_many_at_once_gets_the_turn(self, bench: Bench) -> None:
        """When workers return all parts at the same time, each part twice, all are kept and one gets the turn."""
        [group] = bench.ids(1)
        stores = [bench.worker() for _ in range(12)]
        begin = threading.Barrier(len(stores))

        def return_part(number: int) -> Turn:
            begin.wait(self.patience)
            return stores[number].return_part(part(group, number // 2), f"token {number}", LONG)

        for store in stores:
            store.begin_chord(group, len(stores) // 2)
        with ThreadPoolExecutor(len(stores)) as threads:
            turns = list(threads.map(return_part, range(len(stores))))
        assert turns.count(Turn.MINE) == 1
        assert set(turns) <= {Turn.MINE, Turn.WAIT, Turn.TAKEN}
        assert len(bench.worker().chord_parts(group)) == len(stores) // 2

    @needs("chords")
    def test_groups_are_kept_until_they_are_dropped(self, bench: Bench) -> None:
        """Every client can fetch a saved group until it is forgotten; an unknown group is None."""
        store, other, [group] = bench.worker(), bench.client(oid="another"), bench.ids(1)
        assert store.fetch_group(group) is None
        store.save_group(group, b"members")
        assert other.fetch_group(group) == b"members"
        other.forget_group(group)
        assert store.fetch_group(group) is None

    @needs("chords")
    def test_chords_and_groups_end_when_their_time_is_over(self, bench: Bench) -> None:
        """Chords expire after `chord_expires` seconds, groups after `expires` seconds."""
        store, [group] = bench.worker(chord_expires=1.0, expires=1.0), bench.ids(1)
        store.begin_chord(group, 2)
        store.return_part(part(group, 0), "a", LONG)
        store.save_group(group, b"members")
        wait_for(lambda: store.fetch_group(group) is None, self.patience, lambda: "the group to expire")
        wait_for(
            lambda: store.return_part(part(group, 1), "a", LONG) is Turn.OVER,
            self.patience,
            lambda: "the chord to expire",
        )

    def test_a_store_that_cannot_count_says_so(self, bench: Bench) -> None:
        """Without the trait `chords`, all methods for chords and groups raise `ConfigError`."""
        if bench.traits.chords:
            return
        for refused in _calls(bench.worker()):
            with pytest.raises(ConfigError):
                refused()


def _calls(store: ResultStore) -> list[Callable[[], object]]:
    return [
        lambda: store.begin_chord("G", 1),
        lambda: store.grow_chord("G"),
        lambda: store.return_part(part("G", 0), "a", LONG),
        lambda: store.chord_parts("G"),
        lambda: store.hold_turn("G", "a", LONG),
        lambda: store.end_chord("G", "a", LONG),
        lambda: store.fail_chord("G"),
        lambda: store.save_group("G", b""),
        lambda: store.fetch_group("G"),
        lambda: store.forget_group("G"),
    ]
