"""File watchers that are broken on purpose, each in one way: what the suite for watchers is there to find.

1. Each is a few lines over a watcher that is whole, one that looks or one that hears. `MEANT` names the test that must
   notice.
2. `tests/testing/test_fsnotify_suite.py` runs them; pytest does not collect this file by itself.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from framework.api.fsnotify import Watcher
from framework.testing.fsnotify import FsnotifySuite
from framework_fsnotify.inotify import InotifyWatcher
from framework_fsnotify.stat import StatWatcher


class Looking(StatWatcher):
    """What those are made from that have no descriptor."""

    def state(self, path):
        """Return what tells one state of `path` from another; None: it is not there."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def watch(self, paths):
        for path in paths:
            if path not in self._states:
                self._states[path] = self.state(path)

    def read(self):
        changed = set()
        for path, before in self._states.items():
            now = self.state(path)
            if now != before:
                self._states[path] = now
                if self.tells(before, now):
                    changed.add(path)
        return changed

    def tells(self, before, now):
        """Say whether a change of the state `before` to `now` is told."""
        return True


class Hearing(InotifyWatcher):
    """What those are made from that have one."""


# ---------------------------------------------------------------- misses something


class MissesWrites(Looking):
    def state(self, path):
        return super().state(path) and os.stat(path).st_ino


class MissesRenames(Looking):
    def tells(self, before, now):
        return before is None or now is None or before[-1] == now[-1]


class MissesRemovals(Looking):
    def tells(self, before, now):
        return now is not None


class MissesNewFiles(Looking):
    def tells(self, before, now):
        return before is not None


class BeginsWithTheFirstRead(Looking):
    def watch(self, paths):
        self._states.update(dict.fromkeys(paths, "unknown"))

    def tells(self, before, now):
        return before != "unknown"


class TellsOfEachFileOnce(Looking):
    _told: frozenset[str] = frozenset()

    def read(self):
        found = super().read() - self._told
        self._told |= found
        return found


class DiesWithTheDirectory(Looking):
    def state(self, path):
        os.listdir(Path(path).parent)
        return super().state(path)


class WantsFilesThatAreThere(Looking):
    def watch(self, paths):
        for path in paths:
            os.stat(path)
        super().watch(paths)


class StaysWithTheOldDirectory(Looking):
    """It holds on to the directory that it found, wherever that is moved."""

    def watch(self, paths):
        self._directories = getattr(self, "_directories", {})
        for path in paths:
            directory = os.path.dirname(path)
            if directory not in self._directories and os.path.isdir(directory):
                self._directories[directory] = os.open(directory, os.O_RDONLY)
        super().watch(paths)

    def state(self, path):
        fd = self._directories.get(os.path.dirname(path))
        return super().state(path if fd is None else f"/proc/self/fd/{fd}/{os.path.basename(path)}")

    def close(self):
        for fd in self.__dict__.pop("_directories", {}).values():
            os.close(fd)
        super().close()


class FollowsNoLinks(Looking):
    def state(self, path):
        try:
            found = os.lstat(path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


class WatchesTheLastOnly(Looking):
    def watch(self, paths):
        self._states.clear()
        super().watch(paths)


class WatchesOneOfEachDirectory(Looking):
    def watch(self, paths):
        super().watch({os.path.dirname(path): path for path in paths}.values())


class BeginsAnewWhenToldAgain(Looking):
    def watch(self, paths):
        for path in paths:
            self._states[path] = self.state(path)


class MissesEverySecondChange(Looking):
    _count = 0

    def tells(self, before, now):
        self._count += 1
        return self._count % 2 == 1


class WaitsForDirectoriesOneLevelUp(Looking):
    """A file whose directory comes later is watched only if the one above was there."""

    def watch(self, paths):
        super().watch([path for path in paths if os.path.isdir(os.path.dirname(os.path.dirname(path)))])


# ---------------------------------------------------------------- tells something else


class TellsOtherNames(Looking):
    def read(self):
        return {os.path.basename(path) for path in super().read()}


class TellsRealNames(Hearing):
    def read(self):
        return {os.path.realpath(path) for path in super().read()}


class TellsOfNeighbours(Looking):
    def watch(self, paths):
        super().watch(paths)
        self._before = {path: set(os.listdir(Path(path).parent)) for path in paths if Path(path).parent.is_dir()}

    def read(self):
        found = super().read()
        for path, before in self._before.items():
            directory = Path(path).parent
            if directory.is_dir():
                found |= {str(directory / name) for name in set(os.listdir(directory)) - before}
        return found


class TellsAList(Looking):
    def read(self):
        return sorted(super().read())


class NeverRests(Looking):
    def read(self):
        return {*super().read(), *self._states}


# ---------------------------------------------------------------- keeps the loop from its work


class WaitsInRead(Hearing):
    def read(self):
        while not (found := super().read()):
            threading.Event().wait(0.01)
        return found


class NeverWakes(Hearing):
    """Its descriptor is one on which nothing ever comes."""

    def fileno(self):
        if not hasattr(self, "_silent"):
            self._silent = os.eventfd(0)
        return self._silent

    def close(self):
        super().close()
        if hasattr(self, "_silent"):
            os.close(self.__dict__.pop("_silent"))


class NeverSleeps(NeverWakes):
    """Its descriptor is always readable."""

    def fileno(self):
        fd = super().fileno()
        os.eventfd_write(fd, 1)
        return fd


class HasNoTimeToWait(Looking):
    @property
    def interval(self):
        return 0.0


class ChangesItsDescriptor(Hearing):
    def fileno(self):
        former = self.__dict__.pop("_other", None)
        self._other = os.dup(super().fileno())
        if former is not None:
            os.close(former)
        return self._other

    def watch(self, paths):
        # So that the number of the former one is taken.
        self._taken = [*getattr(self, "_taken", ()), os.open(os.devnull, os.O_RDONLY)]
        self.fileno()
        super().watch(paths)
        self._taken.append(os.dup(self._other))

    def close(self):
        super().close()
        for fd in [*self.__dict__.pop("_taken", ()), *filter(None, [self.__dict__.pop("_other", None)])]:
            os.close(fd)


class HasAThread(Looking):
    def watch(self, paths):
        super().watch(paths)
        self._end = threading.Event()
        threading.Thread(target=self._end.wait, args=(60,), daemon=True).start()

    def close(self):
        super().close()
        if hasattr(self, "_end"):
            self._end.set()


class HasAProcess(Looking):
    def watch(self, paths):
        super().watch(paths)
        self._process = subprocess.Popen(["sleep", "60"])

    def close(self):
        super().close()
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()


# ---------------------------------------------------------------- leaves something


class OpensWhenItIsMade(Hearing):
    def __init__(self, options):
        super().__init__(options)
        self.fileno()


class SharesItsState(Looking):
    shared: dict[str, Any] = {}  # noqa: RUF012 - that is what is wrong with it

    def __init__(self, options):
        super().__init__(options)
        self._states = self.shared


class ClosesOnce(Hearing):
    def close(self):
        os.close(self._fd)
        super().close()


class TellsWhenItIsClosed(Looking):
    def close(self):
        pass


class LeaksADescriptor(Hearing):
    def close(self):
        self._fd = -1
        super().close()


class LeaksWithEveryChange(Looking):
    def read(self):
        found = super().read()
        self._held = [
            *getattr(self, "_held", ()),
            *(os.open(path, os.O_RDONLY) for path in found if Path(path).exists()),
        ]
        return found

    def close(self):
        super().close()
        for fd in self.__dict__.pop("_held", ()):
            os.close(fd)


#: The test of the suite that each of them must fail.
MEANT: dict[type[Watcher], str] = {
    MissesWrites: "test_a_change_is_told[append]",
    MissesRenames: "test_a_change_is_told[replace]",
    MissesRemovals: "test_a_change_is_told[remove]",
    MissesNewFiles: "test_a_file_that_comes_with_its_directories_is_told",
    BeginsWithTheFirstRead: "test_a_change_is_told[rewrite]",
    TellsOfEachFileOnce: "test_what_comes_after_a_change_is_told_too[rewrite]",
    MissesEverySecondChange: "test_a_change_between_two_reads_is_told",
    DiesWithTheDirectory: "test_a_change_is_told[remove_directory]",
    WantsFilesThatAreThere: "test_a_file_that_is_not_there_is_told_when_it_comes",
    WaitsForDirectoriesOneLevelUp: "test_a_file_that_is_not_there_is_told_when_it_comes",
    StaysWithTheOldDirectory: "test_a_directory_that_is_replaced_is_watched",
    FollowsNoLinks: "test_links_are_followed_and_watched",
    TellsRealNames: "test_links_are_followed_and_watched",
    WatchesTheLastOnly: "test_many_files_and_more_of_them_later",
    WatchesOneOfEachDirectory: "test_many_files_and_more_of_them_later",
    BeginsAnewWhenToldAgain: "test_watching_again_loses_no_change",
    TellsOtherNames: "test_a_change_is_told[rewrite]",
    TellsAList: "test_a_change_is_told[rewrite]",
    TellsOfNeighbours: "test_what_is_not_watched_is_not_told",
    NeverRests: "test_it_comes_to_rest",
    WaitsInRead: "test_read_does_not_wait",
    NeverWakes: "test_a_change_wakes_the_loop",
    HasNoTimeToWait: "test_a_change_wakes_the_loop",
    NeverSleeps: "test_it_does_not_spin",
    ChangesItsDescriptor: "test_the_descriptor_stays_the_same",
    HasAThread: "test_it_has_no_thread",
    HasAProcess: "test_it_has_no_thread",
    OpensWhenItIsMade: "test_making_one_opens_nothing",
    SharesItsState: "test_two_watchers_are_two",
    ClosesOnce: "test_closing_is_harmless",
    TellsWhenItIsClosed: "test_closing_is_harmless",
    LeaksADescriptor: "test_ten_lives_leave_nothing_behind",
    LeaksWithEveryChange: "test_changes_leave_nothing_behind",
}


class TestUnbrokenLooking(FsnotifySuite):
    """The control group: what the broken ones are made from passes everything."""

    fsnotify = Looking


class TestUnbrokenHearing(FsnotifySuite):
    fsnotify = Hearing


def _suite(kind: type[Watcher]) -> Any:
    given = {"fsnotify": kind, "patience": 1.0, "__module__": __name__}
    return type(f"Test{kind.__name__}", (FsnotifySuite,), given)


for _kind in MEANT:
    globals()[f"Test{_kind.__name__}"] = _suite(_kind)
