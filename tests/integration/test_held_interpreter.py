"""A library written in C keeps the interpreter for longer than a lease: who waits for it, and who is taken for dead.

The task opens a FIFO through `ctypes.PyDLL`, which does not let go of the interpreter: no other thread of its process
runs any Python until the test opens the other end. Only the first run of the task does that.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support import ledger, queues
from support.held import LONG
from support.wait import wait_for

#: Seconds.
LEASE = 1.5
CONF = {"broker_transport_options": {"lease": LEASE}}


class Pair:
    """Two workers of one queue, of which one is in the task; a client."""

    def __init__(self, url: str, pool: str, start_worker: Any, client: Any, directory: Path) -> None:
        self.url = url
        self.book = directory / "ledger"
        self.gate = directory / "gate"
        os.mkfifo(self.gate)
        self.app = client(url, **CONF)
        self.workers = [self._start(start_worker, pool, "one")]
        self.app.tasks["proj.clutch_late"].apply_async((str(self.gate), "task"))
        self.wait_for({"start:task": 1})
        # It comes when the first one is in the library's hands, and has nothing to do but to take what has lapsed.
        self.workers.append(self._start(start_worker, pool, "two"))

    def _start(self, start_worker: Any, pool: str, name: str) -> Any:
        return start_worker("-P", pool, "-c", "1", "-n", f"{name}@here", broker=self.url, ledger=self.book, conf=CONF)

    def wait_for(self, lines: dict[str, int]) -> None:
        """Wait until the ledger has these lines, and no others."""
        wait_for(
            lambda: ledger.read(self.book) == Counter(lines),
            LONG,
            lambda: f"{lines}, not {ledger.lines(self.book)}; {[each.output[-1500:] for each in self.workers]}",
        )

    def let_go(self) -> None:
        """Have the library return."""
        with open(f"{self.gate}.taken", "wb"):
            pass

    def ends_well(self, lines: dict[str, int]) -> None:
        """The ledger has `lines`; both workers answer, take tasks and stop, and the broker has nothing left."""
        self.wait_for(lines)
        wait_for(lambda: len(self.app.control.ping(timeout=1)) == 2, LONG, "both workers to answer")
        entries = [f"after{number}" for number in range(10)]
        self.app.send_many(self.app.tasks["proj.record_late"].si(entry) for entry in entries)
        self.wait_for(lines | dict.fromkeys(entries, 1))
        for worker in self.workers:
            assert worker.stop() == 0, worker.output
            assert "Traceback" not in worker.output
        assert queues.waiting(self.url) == 0
        assert queues.waiting(self.url, "celery.dlq") == 0


def test_the_worker_of_a_process_that_is_held_keeps_its_lease(
    redis_url: str, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    pair = Pair(redis_url, "prefork", start_worker, client, tmp_path)
    lapsed = time.monotonic() + 2.5 * LEASE
    wait_for(lambda: time.monotonic() > lapsed, LONG, "the lease to lapse, if nobody renewed it")
    pair.let_go()
    pair.ends_well({"start:task": 1, "end:task": 1})


@pytest.mark.parametrize(("broker", "pool"), [("redis", "threads"), ("sqlite", "solo"), ("redis", "gevent")])
def test_a_worker_that_is_held_itself_is_taken_for_dead_and_goes_on_afterwards(
    broker: str, pool: str, request: pytest.FixtureRequest, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    pair = Pair(request.getfixturevalue(f"{broker}_url"), pool, start_worker, client, tmp_path)
    pair.wait_for({"start:task": 2, "end:task": 1})
    pair.workers[1].wait_line("Put back 1 messages that")
    pair.let_go()
    pair.workers[0].wait_line(f"held up: its lease of {LEASE:g} s was not renewed", timeout=LONG)
    pair.ends_well({"start:task": 2, "end:task": 2})
