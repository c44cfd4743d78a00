"""Which watcher is taken, and what each says of its system; what all of them promise is in `test_conformance`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from framework._boot import catalog, loader
from framework._config.settings import Settings, WorkerSettings
from framework.api.fsnotify import Watcher
from framework.exceptions import PluginNotFound, PluginUnavailable
from support import kqueue


def make(name: str | None) -> Watcher:
    return loader.make_watcher(Settings(worker=WorkerSettings(fsnotify=name)))


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "tasks.py"
    path.write_text("one")
    return path


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
    overflow: Callable[[int], list[_libc.KernelEvent]] = lambda fd: [_libc.KernelEvent(-1, _libc.Q_OVERFLOW, "")]  # noqa: E731
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
