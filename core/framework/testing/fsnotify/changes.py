"""Promises 1 and 2: every change is reported, whatever caused it, under the watched name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.testing.fsnotify.base import Bench, FsnotifySuiteBase


def rewrite(source: Path) -> None:
    """Overwrite the file, as simple editors do."""
    source.write_text("changed")


def append(source: Path) -> None:
    """Append to the file."""
    with source.open("a") as stream:
        stream.write("more")


def replace(source: Path) -> None:
    """Replace the file by renaming another file over it, as careful editors do."""
    other = source.parent.parent.parent / "other"
    other.write_text("other")
    os.replace(other, source)


def replace_beside(source: Path) -> None:
    """Replace the file by renaming a file of the same directory over it."""
    other = source.with_suffix(".tmp")
    other.write_text("other")
    os.replace(other, source)


def remove(source: Path) -> None:
    """Remove the file."""
    source.unlink()


def remove_and_make(source: Path) -> None:
    """Remove the file and create it again."""
    source.unlink()
    source.write_text("again")


def save_with_a_backup(source: Path) -> None:
    """Rename the file to a backup and write a new one."""
    source.rename(source.with_suffix(".bak"))
    source.write_text("saved")


def move_away(source: Path) -> None:
    """Move the file to another directory."""
    source.rename(source.parent.parent.parent / "elsewhere")


def remove_directory(source: Path) -> None:
    """Remove the file with its directory."""
    shutil.rmtree(source.parent)


def rename_above(source: Path) -> None:
    """Rename the parent of the file's directory."""
    source.parent.parent.rename(source.parent.parent.with_name("old"))


#: Every way in which a file changes.
CHANGES: tuple[Callable[[Path], None], ...] = (
    rewrite,
    append,
    replace,
    replace_beside,
    remove,
    remove_and_make,
    save_with_a_backup,
    move_away,
    remove_directory,
    rename_above,
)
changes = pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])


class ChangePromises(FsnotifySuiteBase):
    """Tests of changes to files."""

    @changes
    def test_a_change_is_told(self, bench: Bench, source: Path, change: Callable[[Path], None]) -> None:
        """Every change after `watch` is reported: write, replace, remove and rename, of the file or its directory."""
        source.with_name("other.py").write_text("other")
        bench.watch(source)
        change(source)
        bench.expect(source)

    @changes
    def test_what_comes_after_a_change_is_told_too(
        self, bench: Bench, source: Path, change: Callable[[Path], None]
    ) -> None:
        """After any change to a file, the next two changes are reported as well."""
        bench.watch(source)
        change(source)
        bench.expect(source)
        source.parent.mkdir(parents=True, exist_ok=True)
        bench.wait_until_quiet()
        source.write_text("the next one")
        bench.expect(source)
        append(source)
        bench.expect(source)

    def test_a_change_between_two_reads_is_told(self, bench: Bench, source: Path) -> None:
        """A change before the first `read` and a change right after a `read` are both reported."""
        bench.watch(source)
        for number in range(20):
            append(source) if number % 2 else replace(source)
            bench.expect(source)

    def test_a_file_that_is_not_there_is_told_when_it_comes(self, bench: Bench, tmp_path: Path) -> None:
        """A missing file is reported when it is created, after its directories were created one by one."""
        late = tmp_path / "a" / "b" / "c" / "late.py"
        bench.watch(late)
        bench.wait_until_quiet()
        for directory in (late.parent.parent, late.parent):
            directory.mkdir(parents=True)
            bench.wait_until_quiet()
        late.write_text("here")
        bench.expect(late)

    def test_a_file_that_comes_with_its_directories_is_told(self, bench: Bench, tmp_path: Path) -> None:
        """A missing file is reported when it is created together with its directories, without a `read` in between."""
        late = tmp_path / "a" / "b" / "c" / "late.py"
        bench.watch(late)
        late.parent.mkdir(parents=True)
        late.write_text("here")
        bench.expect(late)

    def test_a_directory_that_is_replaced_is_watched(self, bench: Bench, source: Path, tmp_path: Path) -> None:
        """When a directory tree is replaced, as in a deployment, the new tree is watched and the old one is not."""
        bench.watch(source)
        shutil.copytree(tmp_path / "proj", tmp_path / "next")
        (tmp_path / "next" / "pkg" / "tasks.py").write_text("the next release")
        (tmp_path / "proj").rename(tmp_path / "old")
        (tmp_path / "next").rename(tmp_path / "proj")
        bench.expect(source)
        append(source)
        bench.expect(source)
        (tmp_path / "old" / "pkg" / "tasks.py").write_text("old")
        assert not self.exact or bench.read() == set()

    def test_links_are_followed_and_watched(self, bench: Bench, source: Path, tmp_path: Path) -> None:
        """Changes to a link's target, and of the link itself, are reported under the link's name."""
        link, through = tmp_path / "links" / "linked.py", tmp_path / "links" / "current" / "tasks.py"
        link.parent.mkdir()
        link.symlink_to(source)
        (tmp_path / "links" / "current").symlink_to(source.parent)
        bench.watch(link, through)
        append(source)
        bench.expect(link, through)
        other = tmp_path / "second" / "tasks.py"
        other.parent.mkdir()
        other.write_text("elsewhere")
        (tmp_path / "links" / "next").symlink_to(other.parent)
        (tmp_path / "links" / "next").rename(tmp_path / "links" / "current")
        bench.expect(through)
        append(other)
        bench.expect(through)

    def test_many_files_and_more_of_them_later(self, bench: Bench, source: Path) -> None:
        """A hundred files in two overlapping calls of `watch` are all watched."""
        files = [source.with_name(f"module{number}.py") for number in range(100)]
        for path in files:
            path.write_text("one")
        bench.watch(*files[:60])
        bench.watch(*files[40:])
        for path in files:
            path.write_text("another")
        bench.expect(*files)

    def test_watching_again_loses_no_change(self, bench: Bench, source: Path) -> None:
        """A change is reported even if `watch` is called for the file again before `read`."""
        bench.watch(source)
        rewrite(source)
        bench.watch(source, source.with_name("another.py"))
        bench.expect(source)

    def test_what_is_not_watched_is_not_told(self, bench: Bench, source: Path) -> None:
        """New files in the same and in the parent directory, and reads of the watched file, are not reported."""
        bench.watch(source)
        bench.wait_until_quiet()
        source.with_name("neighbour.py").write_text("new")
        (source.parent.parent / "above.py").write_text("new")
        assert source.read_text() == "one"
        # Once this later change is reported, earlier ones would have been reported as well.
        append(source)
        bench.expect(source)
