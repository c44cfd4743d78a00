"""Promises 2 to 4: `read` never waits, the loop can sleep, there is no thread, and nothing is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from framework.testing.fsnotify.base import Bench, FsnotifySuiteBase
from framework.testing.fsnotify.changes import append, replace
from framework.testing.survey import survey


class LifePromises(FsnotifySuiteBase):
    """From the beginning to the end."""

    def test_making_one_opens_nothing(self, bench: Bench) -> None:
        """Nothing is held before `watch` or `fileno`; to close it then is harmless."""
        bench.call(lambda: None)  # the thread in which the watcher is called counts, too
        before = survey()
        watcher = bench.make()
        assert survey().left_since(before) == []
        bench.call(watcher.close)

    def test_read_does_not_wait(self, bench: Bench, source: Path) -> None:
        """It returns at once, as often as one asks, also when there is nothing to tell."""
        bench.watch(source)
        bench.rest()
        for _ in range(100):
            bench.read()
        append(source)
        bench.expect(source)

    def test_it_comes_to_rest(self, bench: Bench, source: Path) -> None:
        """What has been told is not told again and again."""
        bench.watch(source)
        bench.rest()
        replace(source)
        bench.expect(source)
        assert [bench.read() for _ in range(10)] == [set()] * 10

    def test_a_change_wakes_the_loop(self, bench: Bench, source: Path) -> None:
        """The descriptor turns readable though nobody calls `read`; without one there is an interval to wait."""
        bench.watch(source)
        bench.rest()
        fd = bench.call(bench.watcher.fileno)
        if fd is None:
            assert 0 < bench.watcher.interval <= 60
            return
        append(source)
        assert bench.readable(fd, self.patience), "the descriptor did not become readable"
        bench.expect(source)

    def test_it_does_not_spin(self, bench: Bench, source: Path) -> None:
        """When everything has been told, the descriptor is not readable any more."""
        bench.watch(source)
        append(source)
        bench.expect(source)
        fd = bench.call(bench.watcher.fileno)
        if fd is None:
            pytest.skip("it has no descriptor")
        for _ in range(10):
            assert not bench.readable(fd, 0) or bench.read() or not bench.readable(fd, 0), (
                "the descriptor stays readable with nothing to tell"
            )

    def test_the_descriptor_stays_the_same(self, bench: Bench, source: Path, tmp_path: Path) -> None:
        """From the first call until `close`, whatever happens to the files."""
        first = bench.call(bench.watcher.fileno)
        bench.watch(source)
        for change in (append, replace):
            change(source)
            bench.expect(source)
        bench.watch(tmp_path / "late.py")
        shutil.rmtree(source.parent)
        bench.expect(source)
        assert bench.call(bench.watcher.fileno) == first

    def test_it_has_no_thread(self, bench: Bench, source: Path) -> None:
        """Under a green pool there would be none for it, and the loop waits anyway. Nor has it a process."""
        bench.call(lambda: None)
        before = survey()
        bench.watch(source)
        append(source)
        bench.expect(source)
        after = survey()
        assert len(after.threads) == len(before.threads), f"there is a thread more: {after.threads - before.threads}"
        assert after.children == before.children

    def test_two_watchers_are_two(self, bench: Bench, source: Path) -> None:
        """One is closed, and the other goes on."""
        bench.watch(source)
        other = bench.make()
        bench.call(lambda: other.watch([str(source)]))
        append(source)
        bench.expect(source)
        bench.call(other.close)
        replace(source)
        bench.expect(source)

    def test_closing_is_harmless(self, bench: Bench, source: Path) -> None:
        """Before `watch` and twice; a watcher that is closed tells nothing."""
        bench.call(bench.make().close)
        bench.watch(source)
        append(source)
        for _ in range(2):
            bench.call(bench.watcher.close)
        assert bench.read() == set()

    def test_ten_lives_leave_nothing_behind(self, bench: Bench, source: Path) -> None:
        """No descriptor and no thread of ten watchers, also of those that had something to tell."""
        bench.call(lambda: None)
        self._live(bench, source)
        before = survey()
        for _ in range(10):
            self._live(bench, source)
        assert survey().left_since(before) == []

    def _live(self, bench: Bench, source: Path) -> None:
        watcher = bench.make()
        bench.call(lambda: watcher.watch([str(source), str(source.with_name("missing.py"))]))
        bench.call(watcher.fileno)
        append(source)
        bench.call(watcher.read)
        replace(source)
        bench.call(watcher.close)

    def test_changes_leave_nothing_behind(self, bench: Bench, source: Path) -> None:
        """A file that is replaced and a directory that is made anew, twenty times: it holds no more than before."""

        def change() -> None:
            replace(source)
            bench.expect(source)
            shutil.rmtree(source.parent)
            bench.expect(source)
            source.parent.mkdir()
            source.write_text("one")
            bench.expect(source)

        bench.watch(source)
        change()
        before = survey()
        for _ in range(20):
            change()
        assert survey().left_since(before) == []
