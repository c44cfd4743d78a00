"""Our own watchers before the suite that a stranger's watcher has to pass."""

from __future__ import annotations

import pytest

from framework.testing.fsnotify import FsnotifySuite
from support import kqueue


class TestInotify(FsnotifySuite):
    fsnotify = "inotify"
    exact = True


class TestStat(FsnotifySuite):
    fsnotify = "stat"
    exact = True


class TestKqueue(FsnotifySuite):
    """Against a stand-in, see `support.kqueue`."""

    fsnotify = "kqueue"
    exact = True

    @pytest.fixture(autouse=True)
    def stand_in(self, monkeypatch):
        kqueue.install(monkeypatch)
