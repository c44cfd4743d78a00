"""Promise 5: the parts of a chord are counted, one of those who return them sends the body, and groups are kept."""

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

#: Seconds that a turn is kept where the test does not wait for its end.
LONG: Final = 600.0


def part(group: str, number: float | None, value: str | None = None) -> ChordPart:
    """Return what the task at the place `number` came to."""
    return ChordPart(group, f"T{number}", number, (value or f"value of T{number}").encode())


class ChordPromises(ResultStoreSuiteBase):
    """Counting, taking turns, ending, expiring."""

    @needs("chords")
    def test_the_last_part_gets_the_turn_and_all_parts_in_order(self, bench: Bench) -> None:
        """In the order of the header, however they come; when the body is sent, the chord is over."""
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
        """And what it came to first is what counts."""
        store, [group] = bench.worker(), bench.ids(1)
        store.begin_chord(group, 2)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.WAIT
        assert store.return_part(part(group, 0, "another value"), "b", LONG) is Turn.WAIT
        assert store.return_part(part(group, 1), "c", LONG) is Turn.MINE
        assert store.chord_parts(group) == [b"value of T0", b"value of T1"]

    @needs("chords")
    def test_the_turn_belongs_to_one_until_it_lapses(self, bench: Bench) -> None:
        """Nobody else has it or can end the chord; when its holder does nothing for as long as it said, another may."""
        store, [group] = bench.worker(), bench.ids(1)
        store.begin_chord(group, 1)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.MINE
        assert store.return_part(part(group, 0), "b", LONG) is Turn.TAKEN
        assert not store.hold_turn(group, "b", LONG)
        assert not store.end_chord(group, "b", LONG)
        # Who has it gets it again, and may then keep it for as short as it likes.
        assert store.return_part(part(group, 0), "a", 1.0) is Turn.MINE
        wait_for(
            lambda: store.return_part(part(group, 0), "b", LONG) is Turn.MINE,
            self.patience,
            lambda: "the end of a turn that lapses",
        )
        assert not store.end_chord(group, "a", LONG)
        assert store.end_chord(group, "b", LONG)

    @needs("chords")
    def test_parts_without_a_chord_get_no_turn(self, bench: Bench) -> None:
        """Of a chord that has not begun, and of one whose body has failed."""
        store, [group] = bench.worker(), bench.ids(1)
        assert store.return_part(part(group, 0), "a", LONG) is Turn.OVER
        store.begin_chord(group, 2)
        store.return_part(part(group, 0), "a", LONG)
        store.fail_chord(group)
        assert store.return_part(part(group, 1), "a", LONG) is Turn.OVER

    @needs("chords")
    def test_a_chord_may_grow_and_begin_again(self, bench: Bench) -> None:
        """More parts than were expected at first; and the same group once more after its end."""
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
        """Workers return the parts at the same moment, each part twice: none is lost, and one has the turn."""
        [group] = bench.ids(1)
        stores = [bench.worker() for _ in range(12)]
        begin = threading.Barrier(len(stores))

        def bring(number: int) -> Turn:
            begin.wait(self.patience)
            return stores[number].return_part(part(group, number // 2), f"token {number}", LONG)

        for store in stores:
            store.begin_chord(group, len(stores) // 2)
        with ThreadPoolExecutor(len(stores)) as threads:
            turns = list(threads.map(bring, range(len(stores))))
        assert turns.count(Turn.MINE) == 1
        assert set(turns) <= {Turn.MINE, Turn.WAIT, Turn.TAKEN}
        assert len(bench.worker().chord_parts(group)) == len(stores) // 2

    @needs("chords")
    def test_groups_are_kept_until_they_are_dropped(self, bench: Bench) -> None:
        """For every client; one that nobody saved is None."""
        store, other, [group] = bench.worker(), bench.client(oid="another"), bench.ids(1)
        assert store.fetch_group(group) is None
        store.save_group(group, b"members")
        assert other.fetch_group(group) == b"members"
        other.forget_group(group)
        assert store.fetch_group(group) is None

    @needs("chords")
    def test_chords_and_groups_end_when_their_time_is_over(self, bench: Bench) -> None:
        """After the seconds of `chord_expires` and of `expires`."""
        store, [group] = bench.worker(chord_expires=1.0, expires=1.0), bench.ids(1)
        store.begin_chord(group, 2)
        store.return_part(part(group, 0), "a", LONG)
        store.save_group(group, b"members")
        wait_for(lambda: store.fetch_group(group) is None, self.patience, lambda: "the end of a group")
        wait_for(
            lambda: store.return_part(part(group, 1), "a", LONG) is Turn.OVER,
            self.patience,
            lambda: "the end of a chord",
        )

    def test_a_store_that_cannot_count_says_so(self, bench: Bench) -> None:
        """Without the trait `chords`: whatever concerns chords and groups is refused with `ConfigError`."""
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
