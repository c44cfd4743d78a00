"""What every part of the file watchers' suite shares.

1. `FsnotifySuiteBase` has what an author may set, and the fixtures `bench` and `source`.
2. `Bench` makes a watcher and asks it as the worker's loop does: when its descriptor is readable, or now and then.
3. It makes every call of the watcher in one thread beside the test: a call that does not return fails the test.
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
    """What a suite may be told. Only `fsnotify` must be set."""

    #: The watcher's name, as in the setting `fsnotify` under ``[worker]``, or its class.
    fsnotify: ClassVar[str | type[Watcher]]
    #: The watcher's options, as in its table of the config file.
    options: ClassVar[Mapping[str, Any]] = {}
    #: The watcher never names a file that has not changed, which the contract allows.
    exact: ClassVar[bool] = False
    #: Seconds after which a test gives up waiting.
    patience: ClassVar[float] = 20.0

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Bench]:
        """Ask a watcher; it is closed with the test."""
        bench = Bench(self)
        if (reason := bench.watcher_type.unavailable()) is not None:
            request.node.user_properties.append(("missing trait", "not on this system"))
            pytest.skip(f"the watcher {bench.name!r} does not work on this system: {reason}")
        yield bench
        bench.end()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """A file in a directory of its own, two levels below the test's."""
        path = tmp_path / "proj" / "pkg" / "tasks.py"
        path.parent.mkdir(parents=True)
        path.write_text("one")
        return path


class Bench:
    """One watcher, and what it has been told to watch."""

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
            except BaseException as error:  # noqa: BLE001 - it is raised where the test waits for it
                answers.put((None, error))

        self._calls.put(answer)
        try:
            value, error = answers.get(timeout=self.suite.patience)
        except Empty:
            self._thread = None  # it is lost; what it does yet is nobody's
            self._calls = SimpleQueue()
            pytest.fail(f"a call of the watcher {self.name!r} has not returned after {self.suite.patience:g} s")
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def _serve(self) -> None:
        calls = self._calls
        while (call := calls.get()) is not None:
            call()

    def make(self) -> Watcher:
        """Return a watcher that watches nothing yet."""
        options = loader.options("fsnotify", self.name, self.watcher_type, self.suite.options)
        watcher = self.call(lambda: self.watcher_type(options))
        self._made.append(watcher)
        return watcher

    @property
    def watcher(self) -> Watcher:
        """The test's watcher."""
        return self._made[0] if self._made else self.make()

    def end(self) -> None:
        """Close every watcher that was made."""
        if self._thread is not None:
            for watcher in self._made:
                self.call(watcher.close)
            self._calls.put(None)
            self._thread.join(self.suite.patience)

    def watch(self, *paths: Path) -> None:
        """Watch `paths`, too."""
        names = [str(path) for path in paths]
        self._watched.update(names)
        watcher = self.watcher
        self.call(lambda: watcher.watch(names))

    def read(self) -> set[str]:
        """Return what the watcher tells; it tells only of what it watches, under the names that it was given."""
        told = self.call(self.watcher.read)
        assert isinstance(told, set), f"`read` returned {told!r}; wanted a set"
        strange = told - self._watched
        assert not strange, f"told of {sorted(strange)}, which it was not asked to watch"
        return told

    # ------------------------------------------------------------ waiting

    def expect(self, *paths: Path) -> None:
        """Wait until all of `paths` have been told, and until there is nothing more to tell."""
        wanted = {str(path) for path in paths}
        told: set[str] = set()

        def all_told() -> bool:
            self.await_news(lambda: f"{sorted(wanted - told)} to be told")
            told.update(self.read())
            return told >= wanted

        wait_for(all_told, self.suite.patience, lambda: f"{sorted(wanted)} to be told; told of {sorted(told)}")
        assert not self.suite.exact or told == wanted, f"told of {sorted(told)}; {sorted(wanted)} changed"
        self.rest()

    def await_news(self, what: Callable[[], str]) -> None:
        """Sleep as the loop does: until the descriptor is readable, or for a moment."""
        fd = self.call(self.watcher.fileno)
        if fd is None:
            time.sleep(min(0.01, self.watcher.interval))
        else:
            assert self.readable(fd, self.suite.patience), f"the descriptor does not become readable for {what()}"

    @staticmethod
    def readable(fd: int, timeout: float) -> bool:
        """Say whether `fd` becomes readable within `timeout` seconds."""
        return bool(select.select([fd], [], [], timeout)[0])

    def rest(self) -> None:
        """Wait until there is nothing more to tell."""
        wait_for(lambda: not self.read(), self.suite.patience, lambda: "an end of what it tells")
