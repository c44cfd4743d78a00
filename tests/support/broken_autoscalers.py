"""Autoscalers that are broken on purpose, each in one way: what the suite for autoscalers is there to find.

`MEANT` names the test that must notice. `tests/testing/test_autoscaler_suite.py` runs them; pytest does not collect
this file by itself.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
import time
from typing import Any, ClassVar

from framework.api.autoscaler import Autoscaler
from framework.testing.autoscalers import AutoscalerSuite
from framework_autoscalers.load import LoadAutoscaler
from framework_autoscalers.queue import QueueAutoscaler


class Unbroken(QueueAutoscaler):
    """What most of them are made from."""


class DividesByTheRuntime(Unbroken):
    def decide(self, seen):
        return int(seen.waiting / seen.runtime) if seen.runtime is not None else seen.size


class TakesTheRuntimeForKnown(Unbroken):
    def decide(self, seen):
        return seen.running + int(seen.waiting * min(1.0, seen.runtime))


class DividesByWhatIsFree(LoadAutoscaler):
    def decide(self, seen):
        return seen.machine.memory_total // seen.machine.memory_free


class LooksAtAMachineThatItIsNotShown(Unbroken):
    def decide(self, seen):
        return seen.size if seen.machine.load > 1 else seen.size + 1


class AnswersWithAFraction(Unbroken):
    def decide(self, seen):
        return super().decide(seen) / 2


class SaysNothingWhenNothingIsToChange(Unbroken):
    def decide(self, seen):
        wanted = super().decide(seen)
        return wanted if wanted != seen.size else None


class SaysYes(Unbroken):
    def decide(self, seen):
        return seen.waiting > 0


class RemembersTheLast(Unbroken):
    _last = 0

    def decide(self, seen):
        self._last, last = super().decide(seen), self._last
        return (self._last + last) // 2


class IsNotSure(Unbroken):
    def decide(self, seen):
        return super().decide(seen) + random.randrange(3)


class GrowsEveryTime(Unbroken):
    _asked = 0

    def decide(self, seen):
        self._asked += 1
        return seen.size + self._asked


class EachItsOwn(Unbroken):
    _made: ClassVar[Any] = itertools.count()

    def __init__(self, options):
        super().__init__(options)
        self._number = next(self._made)

    def decide(self, seen):
        return super().decide(seen) + self._number


class GoesByTheHour(Unbroken):
    def decide(self, seen):
        return seen.size + int(time.time() // 3600) % 24


class GoesByItsAge(Unbroken):
    def __init__(self, options):
        super().__init__(options)
        self._born = time.monotonic()

    def decide(self, seen):
        return seen.size + (1 if time.monotonic() - self._born > 600 else 0)


class ReadsAFile(Unbroken):
    def decide(self, seen):
        with open("/proc/loadavg" if os.path.exists("/proc/loadavg") else __file__, "rb") as file:
            file.read()
        return super().decide(seen)


class AsksTheNetwork(Unbroken):
    def decide(self, seen):
        with socket.socket() as asker:
            asker.setblocking(False)
        return super().decide(seen)


class Waits(Unbroken):
    def decide(self, seen):
        threading.Event().wait()


class StartsAThread(Unbroken):
    def __init__(self, options):
        super().__init__(options)
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()


class OpensAPipe(Unbroken):
    def decide(self, seen):
        self._pipe = os.pipe()
        return super().decide(seen)


class KnowsSomeSizesOnly(Unbroken):
    """It has a table of what to do with how large a pool."""

    def decide(self, seen):
        return {1: 1, 2: 2, 10: 5, 500: 100, 10_000: 1_000}[seen.largest]


#: The test of the suite that each of them must fail.
MEANT: dict[type[Autoscaler], str] = {
    DividesByTheRuntime: "test_every_answer_is_a_number",
    TakesTheRuntimeForKnown: "test_every_answer_is_a_number",
    DividesByWhatIsFree: "test_every_answer_is_a_number",
    LooksAtAMachineThatItIsNotShown: "test_every_answer_is_a_number",
    AnswersWithAFraction: "test_every_answer_is_a_number",
    SaysNothingWhenNothingIsToChange: "test_every_answer_is_a_number",
    SaysYes: "test_every_answer_is_a_number",
    RemembersTheLast: "test_the_same_observation_gives_the_same_size",
    IsNotSure: "test_the_same_observation_gives_the_same_size",
    GrowsEveryTime: "test_the_same_observation_gives_the_same_size",
    EachItsOwn: "test_two_of_them_agree",
    GoesByTheHour: "test_it_looks_at_no_clock",
    GoesByItsAge: "test_it_looks_at_no_clock",
    ReadsAFile: "test_it_looks_at_nothing_else",
    AsksTheNetwork: "test_it_looks_at_nothing_else",
    Waits: "test_it_answers_without_waiting",
    StartsAThread: "test_making_one_starts_nothing",
    OpensAPipe: "test_making_one_starts_nothing",
    KnowsSomeSizesOnly: "test_a_simulated_pool_stays_between_its_bounds[50,0-burst]",
}


class TestUnbroken(AutoscalerSuite):
    """The control group: what the broken ones are made from passes everything."""

    autoscaler = Unbroken


def _suite(kind: type[Autoscaler]) -> Any:
    given = {"autoscaler": kind, "patience": 1.0, "__module__": __name__}
    return type(f"Test{kind.__name__}", (AutoscalerSuite,), given)


for _kind in MEANT:
    globals()[f"Test{_kind.__name__}"] = _suite(_kind)
