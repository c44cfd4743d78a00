"""The conformance suite of autoscalers: every promise of `framework.api.autoscaler` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.autoscalers import AutoscalerSuite

    class TestAcmeAutoscaler(AutoscalerSuite):
        autoscaler = "acme"

1. Passes the autoscaler thousands of random observations from a fixed seed, including edge cases: no running task, no
   known run time, no free memory.
2. Checks that its decision depends on the observation alone: in another order, at another time, in a second instance.
3. Lets it scale a simulated pool and checks that the size stays between the bounds.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

import pytest

from framework._boot import loader
from framework._config.autoscale import Range
from framework.api.autoscaler import Autoscaler, Machine, Observation
from framework.testing.simulation import SimulatedTask, Simulation, burst, steady
from framework.testing.survey import survey

#: Prefixes of Python's audit events for operations that an autoscaler must not perform.
_OUTSIDE = ("open", "os.listdir", "os.scandir", "os.system", "socket.", "subprocess.", "urllib.")
_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")


class Bench:
    """Creates autoscalers and observations for one test."""

    def __init__(self, suite: AutoscalerSuite) -> None:
        self.suite = suite
        named = suite.autoscaler
        self.name = named if isinstance(named, str) else named.__name__
        self.kind: type[Autoscaler] = loader.load("autoscaler", named) if isinstance(named, str) else named
        assert self.kind.basis in ("queue", "machine"), f"the basis is {self.kind.basis!r}; wanted queue or machine"

    def make(self) -> Autoscaler:
        """Return a new autoscaler."""
        return self.kind(loader.options("autoscaler", self.name, self.kind, self.suite.options))

    def observation(self, rng: random.Random) -> Observation:
        """Return a random observation as core may pass it."""
        largest = rng.choice((1, 2, 10, 500, 10_000))
        smallest = rng.randint(0, largest)
        size = rng.randint(max(1, smallest), largest)
        waiting = rng.choice((0, 0, 1, rng.randrange(100), rng.randrange(1_000_000)))
        total = rng.choice((256, 8_192, 1_000_000))
        machine = Machine(
            load=rng.choice((0.0, rng.random(), 1.0, 1000 * rng.random())),
            memory_free=rng.choice((0, total, rng.randint(0, total))),
            memory_total=total,
        )
        return Observation(
            size=size,
            smallest=smallest,
            largest=largest,
            # More running tasks than slots: a shrinking pool.
            running=rng.choice((0, size, rng.randint(0, size), size + rng.randrange(10))),
            waiting=waiting,
            runtime=rng.choice((None, 0.0, rng.random(), 10_000 * rng.random())),
            backed_up=rng.choice((0.0, rng.random(), 10_000 * rng.random())) if waiting else 0.0,
            machine=machine if self.kind.basis == "machine" else None,
        )

    def observations(self, count: int = 2_000) -> list[Observation]:
        """Return `count` observations, the same ones every time."""
        rng = random.Random(1)
        return [self.observation(rng) for _ in range(count)]

    def simulate(self, jobs: list[SimulatedTask], bounds: Range) -> list[int]:
        """Return the sizes that a simulated pool had while it ran `jobs`."""
        report = Simulation(self.make(), bounds, 30.0).run(jobs)
        assert report.tasks == len(jobs)
        return [sample.size for sample in report.samples]


class AutoscalerSuite:
    """Tests every promise of an autoscaler. Subclass it, name the class ``Test…``, and set `autoscaler`."""

    #: The autoscaler's name, as in the setting `autoscaler` under ``[worker]``, or its class.
    autoscaler: ClassVar[str | type[Autoscaler]]
    #: Its options, as in its table of the config file.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Seconds after which a test stops waiting for a decision.
    patience: ClassVar[float] = 20.0

    @pytest.fixture
    def bench(self) -> Bench:
        """Return the object that creates autoscalers."""
        return Bench(self)

    def test_every_answer_is_a_number(self, bench: Bench) -> None:
        """`decide` returns an integer for every observation that core may pass."""
        autoscaler = bench.make()
        for seen in bench.observations():
            size = autoscaler.decide(seen)
            assert isinstance(size, int), f"{size!r} for {seen}"
            assert not isinstance(size, bool), f"{size!r} for {seen}"

    def test_the_same_observation_gives_the_same_size(self, bench: Bench) -> None:
        """The decision does not depend on earlier calls, whatever their order."""
        autoscaler = bench.make()
        observations = bench.observations()
        first = [autoscaler.decide(seen) for seen in observations]
        order = list(range(len(observations)))
        random.Random(2).shuffle(order)
        for number in order:
            assert autoscaler.decide(observations[number]) == first[number], observations[number]

    def test_two_of_them_agree(self, bench: Bench) -> None:
        """Two instances with the same options return the same size for the same observation."""
        one, other = bench.make(), bench.make()
        for seen in bench.observations():
            assert one.decide(seen) == other.decide(seen), seen

    def test_it_looks_at_no_clock(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """The decision is the same when hours pass between two calls."""
        autoscaler = bench.make()
        observations = bench.observations(500)
        before = [autoscaler.decide(seen) for seen in observations]
        for name in _CLOCKS:
            hour = 3_600 * (1_000_000_000 if name.endswith("_ns") else 1)
            ticks = itertools.count(getattr(time, name)(), hour)
            monkeypatch.setattr(time, name, lambda ticks=ticks: next(ticks))
        after = [autoscaler.decide(seen) for seen in observations]
        monkeypatch.undo()
        assert after == before

    def test_it_looks_at_nothing_else(self, bench: Bench) -> None:
        """`decide` opens no file or socket and starts no program: it uses the observation alone."""
        autoscaler = bench.make()
        observations = bench.observations(500)
        for seen in observations:
            autoscaler.decide(seen)  # the first calls may import modules, which reads files
        with _watching() as touched:
            for seen in observations:
                autoscaler.decide(seen)
        assert touched == []

    def test_it_answers_without_waiting(self, bench: Bench) -> None:
        """`decide` returns promptly, because it runs in the worker's loop."""
        answers: SimpleQueue[int | BaseException] = SimpleQueue()

        def ask() -> None:
            try:
                autoscaler = bench.make()
                for seen in bench.observations(200):
                    size = autoscaler.decide(seen)
                answers.put(size)
            except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
                answers.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = answers.get(timeout=self.patience)
        except Empty:
            pytest.fail(f"the autoscaler {bench.name!r} did not decide within {self.patience:g} s")
        if isinstance(answer, BaseException):
            raise answer

    def test_making_one_starts_nothing(self, bench: Bench) -> None:
        """Neither the constructor nor `decide` opens a descriptor or starts a thread or a process."""
        seen = bench.observations(1)[0]
        bench.make().decide(seen)
        before = survey()
        kept = [bench.make() for _ in range(10)]
        for autoscaler in kept:
            autoscaler.decide(seen)
        assert survey().left_since(before) == []

    @pytest.mark.parametrize("pattern", [burst, steady], ids=["burst", "steady"])
    @pytest.mark.parametrize("bounds", [Range(10, 1), Range(4, 4), Range(50, 0)], ids=["10,1", "4,4", "50,0"])
    def test_a_simulated_pool_stays_between_its_bounds(self, bench: Bench, pattern: Any, bounds: Range) -> None:
        """All tasks of a burst and of a steady stream end, and the pool size stays between its bounds."""
        sizes = bench.simulate(pattern(random.Random(3)), bounds)
        assert min(sizes) >= max(1, bounds.smallest)
        assert max(sizes) <= bounds.largest


# ---------------------------------------------------------------- audit events

_watchers: list[tuple[int, list[str]]] = []
_hooked = False


@contextmanager
def _watching() -> Iterator[list[str]]:
    """Collect the audit events of this thread that match `_OUTSIDE`."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_on_audit_event)  # Python cannot remove an audit hook
    touched: list[str] = []
    watcher = (threading.get_ident(), touched)
    _watchers.append(watcher)
    try:
        yield touched
    finally:
        _watchers.remove(watcher)


def _on_audit_event(event: str, arguments: tuple[object, ...]) -> None:
    for ident, touched in _watchers:
        if event.startswith(_OUTSIDE) and ident == threading.get_ident():
            touched.append(f"{event} {arguments[:1]}")
