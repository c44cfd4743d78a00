"""What every file watcher promises; `kqueue` runs against a stand-in (see `support.kqueue`)."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework._config.settings import Settings, WorkerSettings
from framework._plugins import catalog, loader
from framework.api.fsnotify import Watcher
from framework.exceptions import PluginNotFound, PluginUnavailable
from support import kqueue
from support.wait import wait_for


def make(name: str | None) -> Watcher:
    return loader.make_watcher(Settings(worker=WorkerSettings(fsnotify=name)))


@pytest.fixture(params=["inotify", "kqueue", "stat"])
def watcher(request, monkeypatch) -> Iterator[Watcher]:
    if request.param == "kqueue":
        kqueue.install(monkeypatch)
    made = make(request.param)
    yield made
    made.close()


@pytest.fixture
def source(tmp_path) -> Path:
    """A file in a directory of its own."""
    path = tmp_path / "proj" / "pkg" / "tasks.py"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    (tmp_path / "new").write_text("new")
    return path


def expect(watcher: Watcher, *paths: Path) -> None:
    """Wait until exactly `paths` have been told."""
    told: set[str] = set()
    fd = watcher.fileno()

    def all_told() -> bool:
        if fd is not None:
            assert select.select([fd], [], [], 10)[0], "the descriptor does not become readable"
        told.update(watcher.read())
        return told >= {str(path) for path in paths}

    wait_for(all_told, 10, lambda: f"{paths}, told {told}")
    assert told == {str(path) for path in paths}
    settled(watcher)


def settled(watcher: Watcher) -> None:
    wait_for(lambda: not watcher.read(), 10)


def replace(source: Path) -> None:
    os.replace(source.parent.parent.parent / "new", source)


def rewrite(source: Path) -> None:
    source.write_text("changed")


def append(source: Path) -> None:
    with source.open("a") as stream:
        stream.write("more")


def remove(source: Path) -> None:
    source.unlink()


def remove_and_make(source: Path) -> None:
    source.unlink()
    source.write_text("again")


def save_with_a_backup(source: Path) -> None:
    source.rename(source.with_suffix(".bak"))
    source.write_text("saved")


def move_away(source: Path) -> None:
    source.rename(source.parent.parent.parent / "elsewhere")


def remove_directory(source: Path) -> None:
    shutil.rmtree(source.parent)


def rename_above(source: Path) -> None:
    source.parent.parent.rename(source.parent.parent.with_name("old"))


CHANGES = [
    rewrite,
    append,
    replace,
    remove,
    remove_and_make,
    save_with_a_backup,
    move_away,
    remove_directory,
    rename_above,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_told(watcher, source, change):
    other = source.with_name("other.py")
    other.write_text("other")
    watcher.watch([str(source)])
    change(source)
    expect(watcher, source)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_comes_after_a_change_is_told_too(watcher, source, change):
    watcher.watch([str(source)])
    change(source)
    expect(watcher, source)
    source.parent.mkdir(parents=True, exist_ok=True)
    settled(watcher)
    source.write_text("the next one")
    expect(watcher, source)
    append(source)
    expect(watcher, source)


def test_nothing_is_told_without_a_change(watcher, source):
    watcher.watch([str(source)])
    assert watcher.read() == set()
    source.with_name("neighbour.py").write_text("new")
    (source.parent.parent / "above.py").write_text("new")
    assert source.read_text() == "one"
    # The last of them is told of; what came before it would be, too.
    append(source)
    expect(watcher, source)


def test_a_file_that_is_not_there_is_told_when_it_comes(watcher, tmp_path):
    late = tmp_path / "a" / "b" / "c" / "late.py"
    watcher.watch([str(late)])
    assert watcher.read() == set()
    late.parent.parent.mkdir(parents=True)
    watcher.read()
    late.parent.mkdir()
    watcher.read()
    late.write_text("here")
    expect(watcher, late)


def test_a_file_that_comes_with_its_directories_is_told(watcher, tmp_path):
    late = tmp_path / "a" / "b" / "c" / "late.py"
    watcher.watch([str(late)])
    late.parent.mkdir(parents=True)
    late.write_text("here")
    expect(watcher, late)


def test_a_directory_that_is_replaced_is_watched(watcher, source, tmp_path):
    watcher.watch([str(source)])
    shutil.copytree(tmp_path / "proj", tmp_path / "next")
    (tmp_path / "proj").rename(tmp_path / "old")
    (tmp_path / "next").rename(tmp_path / "proj")
    expect(watcher, source)
    append(source)
    expect(watcher, source)
    # The one that was moved away is not it any more.
    (tmp_path / "old" / "pkg" / "tasks.py").write_text("old")
    assert watcher.read() == set()


def test_links_are_followed_and_watched(watcher, source, tmp_path):
    link, through = tmp_path / "links" / "linked.py", tmp_path / "links" / "current" / "tasks.py"
    link.parent.mkdir()
    link.symlink_to(source)
    (tmp_path / "links" / "current").symlink_to(source.parent)
    watcher.watch([str(link), str(through)])
    append(source)
    expect(watcher, link, through)
    other = tmp_path / "second" / "tasks.py"
    other.parent.mkdir()
    other.write_text("elsewhere")
    (tmp_path / "links" / "next").symlink_to(other.parent)
    (tmp_path / "links" / "next").rename(tmp_path / "links" / "current")
    expect(watcher, through)
    append(other)
    expect(watcher, through)


def test_many_files_and_more_of_them_later(watcher, source):
    files = [source.with_name(f"module{number}.py") for number in range(100)]
    for path in files:
        path.write_text("one")
    watcher.watch([str(path) for path in files[:60]])
    watcher.watch([str(path) for path in files[40:]])
    for path in files:
        path.write_text("another")
    expect(watcher, *files)


def test_closing_is_harmless(watcher, source):
    watcher.close()
    watcher.watch([str(source)])
    before = len(os.listdir("/proc/self/fd"))
    watcher.close()
    watcher.close()
    assert watcher.read() == set()
    assert len(os.listdir("/proc/self/fd")) <= before


# ---------------------------------------------------------------- which one


@pytest.mark.acceptance(171, 173, 174)
def test_the_best_is_taken_and_any_can_be_forced():
    assert {info.name for info in catalog.plugins("fsnotify")} >= {"inotify", "kqueue", "stat"}
    assert type(make(None)).__name__ == "InotifyWatcher"
    assert type(make("stat")).__name__ == "StatWatcher"
    with pytest.raises(PluginNotFound, match="no fsnotify named 'fanotify' is installed; did you mean 'inotify'"):
        make("fanotify")
    with pytest.raises(PluginUnavailable, match="does not work on this system: kqueue is a part of macOS and the BSDs"):
        make("kqueue")


@pytest.mark.acceptance(172)
def test_kqueue_is_taken_where_there_is_no_inotify(monkeypatch):
    kqueue.install(monkeypatch)
    monkeypatch.setattr("framework_fsnotify._libc.missing", lambda: True)
    assert type(make(None)).__name__ == "KqueueWatcher"


def test_inotify_takes_every_file_for_changed_when_events_were_dropped(source, monkeypatch):
    from framework_fsnotify import _libc

    watcher = make("inotify")
    files = [source, source.with_name("other.py")]
    watcher.watch([str(path) for path in files])
    overflow: Callable[[int], list[_libc.Event]] = lambda fd: [_libc.Event(-1, _libc.Q_OVERFLOW, "")]  # noqa: E731
    monkeypatch.setattr(_libc, "events", overflow)
    assert watcher.read() == {str(path) for path in files}
    watcher.close()


def test_a_system_limit_is_explained(source, monkeypatch):
    import ctypes
    import errno

    from framework_fsnotify import _libc

    class Full:
        def inotify_init1(self, flags: int) -> int:
            ctypes.set_errno(errno.EMFILE)
            return -1

    monkeypatch.setattr(_libc, "_libc", Full)
    with pytest.raises(OSError, match=r"raise the system's limit fs\.inotify\.max_user_instances"):
        make("inotify").watch([str(source)])
