"""Promises 2 to 4: `read` never blocks, the loop can sleep, the watcher has no thread and leaks nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from framework.testing.fsnotify.base import Bench, FsnotifySuiteBase
from framework.testing.fsnotify.changes import append, replace
from framework.testing.survey import survey


class LifePromises(FsnotifySuiteBase):
    """Tests from creation to close."""

    def test_making_one_opens_nothing(self, bench: Bench) -> None:
        """The constructor holds no resources, and `close` right after it is harmless."""
        bench.call(lambda: None)  # start the bench's own thread before the survey
        before = survey()
        watcher = bench.make()
        assert survey().left_since(before) == []
        bench.call(watcher.close)

    def test_read_does_not_wait(self, bench: Bench, source: Path) -> None:
        """`read` returns at once, also when nothing has changed."""
        bench.watch(source)
        bench.wait_until_quiet()
        for _ in range(100):
            bench.read()
        append(source)
        bench.expect(source)

    def test_it_comes_to_rest(self, bench: Bench, source: Path) -> None:
        """A change is not reported again and again."""
        bench.watch(source)
        bench.wait_until_quiet()
        replace(source)
        bench.expect(source)
        assert [bench.read() for _ in range(10)] == [set()] * 10

    def test_a_change_wakes_the_loop(self, bench: Bench, source: Path) -> None:
        """A change makes the descriptor readable; a watcher without one has an interval of at most 60 seconds."""
        bench.watch(source)
        bench.wait_until_quiet()
        fd = bench.call(bench.watcher.fileno)
        if fd is None:
            assert 0 < bench.watcher.interval <= 60
            return
        append(source)
        assert bench.readable(fd, self.patience), "the descriptor did not become readable"
        bench.expect(source)

    def test_it_does_not_spin(self, bench: Bench, source: Path) -> None:
        """The descriptor is not readable after all changes have been reported."""
        bench.watch(source)
        append(source)
        bench.expect(source)
        fd = bench.call(bench.watcher.fileno)
        if fd is None:
            pytest.skip("the watcher has no descriptor")
        for _ in range(10):
            assert not bench.readable(fd, 0) or bench.read() or not bench.readable(fd, 0), (
                "the descriptor stays readable without a change"
            )

    def test_the_descriptor_stays_the_same(self, bench: Bench, source: Path, tmp_path: Path) -> None:
        """`fileno` returns the same descriptor until `close`, whatever happens to the files."""
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
        """The watcher starts neither a thread, which a green pool would patch, nor a process."""
        bench.call(lambda: None)
        before = survey()
        bench.watch(source)
        append(source)
        bench.expect(source)
        after = survey()
        assert len(after.threads) == len(before.threads), f"new threads: {after.threads - before.threads}"
        assert after.children == before.children

    def test_two_watchers_are_two(self, bench: Bench, source: Path) -> None:
        """Closing one watcher does not affect another."""
        bench.watch(source)
        other = bench.make()
        bench.call(lambda: other.watch([str(source)]))
        append(source)
        bench.expect(source)
        bench.call(other.close)
        replace(source)
        bench.expect(source)

    def test_closing_is_harmless(self, bench: Bench, source: Path) -> None:
        """`close` may be called before `watch` and twice; a closed watcher reports nothing."""
        bench.call(bench.make().close)
        bench.watch(source)
        append(source)
        for _ in range(2):
            bench.call(bench.watcher.close)
        assert bench.read() == set()

    def test_ten_lives_leave_nothing_behind(self, bench: Bench, source: Path) -> None:
        """Ten watchers leave no descriptor and no thread, even if changes were not read."""
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
        """Replacing a file and its directory twenty times does not increase the watcher's resources."""

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
