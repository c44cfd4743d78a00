"""One run: carries a plan out, waits until everything is done, and closes the books.

1. `Run.go` sends and strikes as the plan says, then heals, waits, stops the workers, and returns `Outcome`.
2. The steady worker must be the same process all along, and its memory must not grow.
3. What is left to do at the end is waited for as long as the ledger still grows.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from signal import SIGKILL
from typing import Any, NamedTuple

import psutil

from faults import accounts, logs
from faults.accounts import Accounts, Sent
from faults.mishaps import Mishaps
from faults.plan import STEADY, VICTIM, Event
from faults.scene import Scene
from faults.work import MAX_DELIVERIES
from support import ledger

#: Seconds without a new line in the ledger after which what is missing is not waited for any longer.
PATIENCE = 45.0
_TICK = 0.02
#: Growth of the steady worker's main process that is none: a share, and bytes for buffers and caches.
_GROWTH = 0.25
_GROWTH_BYTES = 12_000_000


class Outcome(NamedTuple):
    """What came of a run."""

    books: dict[str, Accounts]
    faults: Counter[str]
    #: Bytes of the steady worker's main process: begin, middle, end.
    memory: list[int]
    #: Stored outcomes that are not what the task returned: entry and what was found.
    wrong_results: list[str]
    results: int
    #: Sentences about what else is wrong.
    complaints: list[str]
    seconds: float

    @property
    def good(self) -> bool:
        """The books balance, and there is nothing to complain of."""
        return all(each.balanced for each in self.books.values()) and not (self.complaints or self.wrong_results)


class Run:
    """One plan, on one scene."""

    def __init__(
        self,
        scene: Scene,
        events: list[Event],
        *,
        tell: Callable[[str], object] = lambda line: None,
        patience: float = PATIENCE,
    ) -> None:
        """`tell` is given a line now and then. `patience` is in seconds, see `PATIENCE`."""
        self._scene = scene
        self._patience = patience
        self._events = events
        self._tell = tell
        self._mishaps = Mishaps(scene)
        self._sent: list[Sent] = []
        #: Drawn, and not sent yet.
        self._outbox: list[tuple[tuple[Sent, float | None], ...]] = []
        self._memory: list[int] = []
        self._complaints: list[str] = []

    def go(self) -> Outcome:
        """Carry it out."""
        began = time.monotonic()
        steady = self._steady()
        self._carry_out(began)
        self._mishaps.heal()
        self._send()
        self._finish()
        self._weigh(steady)
        self._stop(steady)
        return self._close_books(time.monotonic() - began)

    def _steady(self) -> psutil.Process:
        worker = self._scene.actors[STEADY].worker
        assert worker is not None
        return psutil.Process(worker.pid)

    # ------------------------------------------------------------ the storm

    def _carry_out(self, began: float) -> None:
        length = self._events[-1].at if self._events else 0.0
        marks = [length * 0.15, length * 0.55]
        steady = self._steady()
        told = began
        for event in self._events:
            while True:
                self._mishaps.due()
                self._mishaps.watch()
                now = time.monotonic()
                if marks and now - began >= marks[0]:
                    marks.pop(0)
                    self._weigh(steady)
                if now - told >= 5:
                    told = now
                    self._progress(now - began)
                if now - began >= event.at:
                    break
                time.sleep(_TICK)
            if event.what == "send":
                self._outbox.append(event.tasks)
                self._send()
            else:
                self._mishaps.strike(event)

    def _send(self) -> None:
        if self._scene.broker == "sqlite" and self._mishaps.file_is_held:
            return
        for tasks in self._outbox:
            self._sent += self._scene.send(tasks)
        self._outbox.clear()

    def _progress(self, seconds: float) -> None:
        victim = self._scene.actors[VICTIM]
        faults = sum(self._mishaps.counts.values())
        self._tell(
            f"{seconds:5.0f} s  {len(self._sent)} sent, {ledger.size(self._scene.book)} lines, {faults} faults, "
            f"victim started {victim.starts} times, steady has {self._memory[-1] / 1e6 if self._memory else 0:.1f} MB"
        )

    def _weigh(self, process: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._memory.append(process.memory_info().rss)

    # ------------------------------------------------------------ the calm

    def _finish(self) -> None:
        """Wait until nothing is left to do, or nothing happens any more."""
        size, changed = -1, time.monotonic()
        told = changed
        while True:
            self._mishaps.watch()
            now = time.monotonic()
            if (found := ledger.size(self._scene.book)) != size:
                size, changed = found, now
            elif now - changed > self._patience:
                self._complaints.append(
                    f"the workers were not done {self._patience:g} s after the last line of the ledger"
                )
                return
            if self._scene.settled():
                return
            if now - told >= 5:
                told = now
                self._tell(f"         waiting for the end: {size} lines")
            time.sleep(0.1)

    def _stop(self, steady: psutil.Process) -> None:
        if self._mishaps.deaths:
            self._complaints += self._mishaps.deaths
        worker = self._scene.actors[STEADY].worker
        if worker is None or worker.pid != steady.pid:
            self._complaints.append("the steady worker is not the process that it was at the beginning")
        for actor in self._scene.actors.values():
            if actor.worker is None or not actor.running:
                continue
            try:
                # One with failpoints may be killed by one of them on its way out, too.
                allowed = (0, -SIGKILL) if actor.name in self._scene.failpoints else (0,)
                if (code := actor.worker.stop()) not in allowed:
                    self._complaints.append(f"{actor.name} ended with {code} when asked to stop")
            except AssertionError:
                self._complaints.append(f"{actor.name} did not stop when asked to")
        if len(self._memory) > 1:
            first, last = self._memory[0], self._memory[-1]
            if last > first * (1 + _GROWTH) + _GROWTH_BYTES:
                self._complaints.append(f"the steady worker grew from {first / 1e6:.1f} to {last / 1e6:.1f} MB")
        for actor in self._scene.actors.values():
            log = (self._scene.directory / f"{actor.name}.log").read_text(errors="replace")
            for alarm in logs.alarms(log)[:3]:
                self._complaints.append(f"{actor.name} logged what nobody should have to read:\n{alarm}")

    # ------------------------------------------------------------ the books

    def _close_books(self, seconds: float) -> Outcome:
        letters = self._scene.letters()
        worn = {str(letter["id"]) for letter in letters if letter["reason"] == "max-deliveries"}
        others = [letter for letter in letters if letter["reason"] != "max-deliveries"]
        if others:
            self._complaints.append(f"{len(others)} dead letters for other reasons: {others[:3]}")
        left = self._scene.left()
        if left:
            self._complaints.append(f"{len(left)} tasks lie in the queue after the end: {sorted(left)[:5]}")
        lines = accounts.read(ledger.lines(self._scene.book))
        books = {}
        known = {task.entry: task for task in self._sent}
        strangers = [line for line in lines if line.entry not in known]
        for name, late in (("late", True), ("early", False)):
            sent = [task for task in self._sent if task.late is late]
            own = [line for line in lines if line.entry in known and known[line.entry].late is late]
            books[name] = accounts.keep(
                sent, own, self._scene.faults, max_deliveries=MAX_DELIVERIES, letters=worn, left=left
            )
        if strangers:
            books["nobody's"] = accounts.keep([], strangers)
        done = [
            task
            for task in self._sent
            if task.keeps_result and task.entry in {*books["late"].ok, *books["late"].recovered}
        ]
        wrong = self._check_results(done)
        return Outcome(books, self._mishaps.counts, self._memory, wrong, len(done), self._complaints, seconds)

    def _check_results(self, done: list[Sent]) -> list[str]:
        """A late-ack task's outcome is stored before its message is acknowledged: none may be missing."""
        app: Any = self._scene.client
        wrong = []
        for task in done:
            result = app.AsyncResult(task.entry)
            state = result.state
            if state != "SUCCESS" or result.result != task.entry:
                wrong.append(f"{task.entry}: {state}")
        return wrong
