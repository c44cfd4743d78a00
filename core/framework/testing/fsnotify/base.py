"""The common base of the tests of file watchers.

1. `FsnotifySuiteBase` has the attributes that an author may set, and the fixtures `bench` and `source`.
2. `Bench` creates watchers and reads them as the worker's loop does: when the descriptor is readable, or at intervals.
3. `Bench` makes every call of a watcher in a separate thread, so that a call that does not return fails the test.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, TypeVar

import pytest

from framework._boot import loader
from framework.api.fsnotify import Watcher
from framework.testing.wait import wait_for

T = TypeVar("T")


class FsnotifySuiteBase:
    """The attributes and fixtures of a suite. Only `fsnotify` must be set."""

    #: The watcher's name, as in the setting `fsnotify` under ``[worker]``, or its class.
    fsnotify: ClassVar[str | type[Watcher]]
    #: The watcher's options, as in its table of the config file.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Whether the watcher reports only files that have changed; the contract allows others.
    exact: ClassVar[bool] = False
    #: Seconds after which a test stops waiting.
    patience: ClassVar[float] = 20.0

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Bench]:
        """Yield the bench of the test; its watchers are closed at the end."""
        bench = Bench(self)
        if (reason := bench.watcher_type.unavailable()) is not None:
            request.node.user_properties.append(("missing trait", "not on this system"))
            pytest.skip(f"the watcher {bench.name!r} does not work on this system: {reason}")
        yield bench
        bench.end()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """Return a file two directories below the test's directory."""
        path = tmp_path / "proj" / "pkg" / "tasks.py"
        path.parent.mkdir(parents=True)
        path.write_text("one")
        return path


class Bench:
    """Creates watchers for one test, and records the paths that they watch."""

    def __init__(self, suite: FsnotifySuiteBase) -> None:
        self.suite = suite
        named = suite.fsnotify
        self.name = named if isinstance(named, str) else named.__name__
        self.watcher_type: type[Watcher] = loader.load("fsnotify", named) if isinstance(named, str) else named
        self._watched: set[str] = set()
        self._made: list[Watcher] = []
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ calls

    def call(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, or raise what it raises; fail when it takes longer than `patience`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="framework-testing", daemon=True)
            self._thread.start()
        answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

        def answer() -> None:
            try:
                answers.put((function(), None))
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                answers.put((None, error))

        self._calls.put(answer)
        try:
            value, error = answers.get(timeout=self.suite.patience)
        except Empty:
            self._thread = None  # abandon the blocked thread
            self._calls = SimpleQueue()
            pytest.fail(f"a call of the watcher {self.name!r} did not return within {self.suite.patience:g} s")
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def _serve(self) -> None:
        calls = self._calls
        while (call := calls.get()) is not None:
            call()

    def make(self) -> Watcher:
        """Return a new watcher that watches nothing yet."""
        options = loader.options("fsnotify", self.name, self.watcher_type, self.suite.options)
        watcher = self.call(lambda: self.watcher_type(options))
        self._made.append(watcher)
        return watcher

    @property
    def watcher(self) -> Watcher:
        """The watcher of the test."""
        return self._made[0] if self._made else self.make()

    def end(self) -> None:
        """Close every watcher that was made."""
        if self._thread is not None:
            for watcher in self._made:
                self.call(watcher.close)
            self._calls.put(None)
            self._thread.join(self.suite.patience)

    def watch(self, *paths: Path) -> None:
        """Watch `paths`, in addition to earlier ones."""
        names = [str(path) for path in paths]
        self._watched.update(names)
        watcher = self.watcher
        self.call(lambda: watcher.watch(names))

    def read(self) -> set[str]:
        """Return the paths that the watcher reports; fail if it reports a path that it does not watch."""
        reported = self.call(self.watcher.read)
        assert isinstance(reported, set), f"`read` returned {reported!r}; wanted a set"
        unknown = reported - self._watched
        assert not unknown, f"reported {sorted(unknown)}, which it does not watch"
        return reported

    # ------------------------------------------------------------ waiting

    def expect(self, *paths: Path) -> None:
        """Wait until all of `paths` have been reported, and then until `read` returns nothing."""
        wanted = {str(path) for path in paths}
        reported: set[str] = set()

        def all_reported() -> bool:
            self.wait_for_change(lambda: f"{sorted(wanted - reported)} to be reported")
            reported.update(self.read())
            return reported >= wanted

        wait_for(all_reported, self.suite.patience, lambda: f"{sorted(wanted)} to be reported; got {sorted(reported)}")
        assert not self.suite.exact or reported == wanted, f"reported {sorted(reported)}; {sorted(wanted)} changed"
        self.wait_until_quiet()

    def wait_for_change(self, what: Callable[[], str]) -> None:
        """Wait until the descriptor is readable; without a descriptor, sleep briefly."""
        fd = self.call(self.watcher.fileno)
        if fd is None:
            time.sleep(min(0.01, self.watcher.interval))
        else:
            assert self.readable(fd, self.suite.patience), f"the descriptor does not become readable for {what()}"

    @staticmethod
    def readable(fd: int, timeout: float) -> bool:
        """Return whether `fd` becomes readable within `timeout` seconds."""
        return bool(select.select([fd], [], [], timeout)[0])

    def wait_until_quiet(self) -> None:
        """Wait until `read` returns nothing."""
        wait_for(lambda: not self.read(), self.suite.patience, lambda: "`read` to return nothing")
