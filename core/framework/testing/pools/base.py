"""The common base of the tests of pools.

1. `PoolSuiteBase` has the attributes that an author may set, and the fixture `start`, which creates pools.
2. `Bench`, the value of `start`, starts pools in a real loop and stops them after the test; if the pool needs the main
   thread, it runs the test in another thread.
3. `needs` skips a test unless the pool has a trait.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from framework._boot import loader
from framework.api.pool import Pool, PoolTraits
from framework.testing.harness import PATIENCE, Harness


def needs(*traits: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, unless the pool has all of `traits`."""
    return pytest.mark.needs_trait(*traits)


class PoolSuiteBase:
    """The attributes and fixtures of a suite. Only `pool` must be set."""

    #: The pool's name, as in `--pool`, or its class.
    pool: ClassVar[str | type[Pool]]
    #: The pool's options, as in its table of the config file.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Further fields of the `PoolContext`, for example ``{"start_method": "spawn"}``.
    context: ClassVar[Mapping[str, Any]] = {}
    #: Slots in most tests; a pool with the trait `main_thread` has one.
    slots: ClassVar[int] = 2
    #: Number of jobs in tests with many jobs.
    many: ClassVar[int] = 5_000
    #: Whether jobs are coroutines, which a pool with the trait `async_tasks` runs on its event loop.
    coroutines: ClassVar[bool] = False
    #: Seconds without any progress after which a test fails.
    patience: ClassVar[float] = PATIENCE

    @pytest.fixture
    def start(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
        """Yield a function that starts a pool and returns its `Harness`; the pools are stopped after the test."""
        bench = Bench(self, tmp_path)
        for marker in request.node.iter_markers("needs_trait"):
            for trait in marker.args:
                if not getattr(bench.traits, trait):
                    request.node.user_properties.append(("missing trait", trait))
                    pytest.skip(f"the pool {bench.name!r} does not have the trait {trait!r}")
        yield bench
        bench.close(failed=True)


class Bench:
    """Creates pools for one test."""

    def __init__(self, suite: PoolSuiteBase, directory: Path) -> None:
        self.suite = suite
        self.directory = directory
        self.pool_type = load(suite.pool)
        self.traits: PoolTraits = self.pool_type.traits
        self.name = name_of(suite.pool)
        self.slots = 1 if self.traits.main_thread else suite.slots
        #: A directory from which the pool's jobs can import modules.
        self.modules = directory / "modules"
        self._made: list[Harness] = []
        self._mains: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._main_is_lost = False

    def __call__(self, slots: int | None = None, recipe: Mapping[str, Any] | None = None, **context: Any) -> Harness:
        """Return a started pool with `slots` slots, by default those of the suite."""
        return self.make(slots, recipe, **context).start()

    def make(self, slots: int | None = None, recipe: Mapping[str, Any] | None = None, **context: Any) -> Harness:
        """Return a pool that has not been started."""
        table = {"path": [str(self.modules)], "ledger": str(self.directory / f"ledger-{len(self._made)}")}
        harness = Harness(
            self.pool_type,
            1 if self.traits.main_thread else slots or self.slots,
            table | {"coroutines": self.suite.coroutines} | dict(recipe or {}),
            options=loader.options("pool", self.name, self.pool_type, self.suite.options),
            patience=self.suite.patience,
            main=self._mains.put,
            **{**self.suite.context, **context},
        )
        self._made.append(harness)
        return harness

    def gate(self) -> Path:
        """Return the path of a file that does not exist: a job ``await:<path>`` runs until the test creates it."""
        return self.directory / f"gate-{uuid4().hex}"

    def run(self, test: Callable[[], object]) -> None:
        """Run a test's function, stop its pools and check their reports; called by the pytest plugin."""
        if not self.traits.main_thread:
            self._run(test)
            return
        errors: list[BaseException] = []

        def drive() -> None:
            try:
                self._run(test)
            except BaseException as error:  # noqa: BLE001 - raised again in pytest's thread
                errors.append(error)
            finally:
                self._mains.put(None)

        driver = threading.Thread(target=drive, name="test", daemon=True)
        driver.start()
        while True:
            try:
                if (run_main := self._mains.get()) is None:
                    break
                run_main()
            except KeyboardInterrupt:
                # `_leave_main` interrupts a `run_main` that did not return; any other interrupt is passed on.
                if not self._main_is_lost:
                    raise
        driver.join()
        if errors:
            raise errors[0]

    def _run(self, test: Callable[[], object]) -> None:
        failed = True
        try:
            test()
            failed = False
        except Exception as error:  # the test's wall: add broken promises of the pool to the report
            self._explain(error)
            raise
        finally:
            self.close(failed)

    def _explain(self, error: BaseException) -> None:
        for harness in self._made:
            if harness.problems or harness.errors:
                error.add_note(f"Errors of the pool: {harness.complaints()}")

    def close(self, failed: bool = False) -> None:
        """Stop all pools; unless the test has `failed` already, fail if a promise was broken."""
        made, self._made = self._made, []
        try:
            for harness in made:
                if failed:
                    harness.abort()
                    continue
                if any(seq not in harness.ended for seq in harness.begun):
                    harness.kill()
                harness.stop()
                harness.check()
        except BaseException:
            self._leave_main()
            for harness in made:
                harness.abort()
            raise

    def _leave_main(self) -> None:
        if self.traits.main_thread and threading.current_thread() is not threading.main_thread():
            self._main_is_lost = True
            with contextlib.suppress(RuntimeError):
                _thread.interrupt_main()


def load(pool: str | type[Pool]) -> type[Pool]:
    """Return the class of the pool that a suite names."""
    return loader.load("pool", pool) if isinstance(pool, str) else pool


def name_of(pool: str | type[Pool]) -> str:
    """Return the name of a pool for messages."""
    return pool if isinstance(pool, str) else pool.__name__
