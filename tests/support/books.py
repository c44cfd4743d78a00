"""Accounting with rough tasks: on any pool, the ledger and the stored outcomes agree about every one of them.

1. `draw` makes random tasks from a seed: most sleep for up to 20 ms; some raise, kill their process (or raise
   `SystemExit` where the pool has no processes), or run into a short hard limit.
2. `keep` sends them to a worker, and compares what ran, by the ledger, with what the result store has of each.
3. `make books` does it with 20,000 tasks on every pool; ``BOOKS="gevent"`` on some.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from framework.exceptions import WorkerLostError
from support import ledger, poolfleet, queues
from support.brokers import PrivateRedis
from support.proj import app, make_app, note
from support.wait import wait_for

__all__ = ["app", "make_app"]

#: Shares of the tasks that end badly.
SHARES = {"raise": 0.01, "die": 0.001, "over": 0.005}
LONGEST = 0.02
#: Seconds; far more than a task needs to write its first line, also on a busy machine.
HARD_LIMIT = 0.5
CONCURRENCY = {"prefork": 8, "threads": 20, "solo": 1, "gevent": 50, "eventlet": 50, "asyncio": 50}
#: What the result store is to say of each kind.
EXPECTED = {"plain": "SUCCESS", "raise": "ValueError", "die": "WorkerLostError", "over": "TimeLimitExceeded"}


def end_badly(kind: str) -> None:
    if kind == "raise":
        raise ValueError("as drawn")
    if kind == "die":
        if "FRAMEWORK_PROCESS_INDEX" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit("as drawn")


@app.task(name="books.entry")
def entry(number: int, kind: str, seconds: float) -> int:
    note(f"start:{number}")
    end_badly(kind)
    end = time.monotonic() + (60 if kind == "over" else seconds)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, LONGEST))
    note(f"end:{number}")
    return number


@app.task(name="books.aentry")
async def aentry(number: int, kind: str, seconds: float) -> int:
    note(f"start:{number}")
    end_badly(kind)
    await asyncio.sleep(60 if kind == "over" else seconds)
    note(f"end:{number}")
    return number


class Books(NamedTuple):
    """What `keep` found."""

    seconds: float
    #: How many tasks there are of each kind.
    drawn: Counter[str]
    #: Tasks whose stored outcome is not that of their kind: number, kind, what was stored.
    wrong: list[tuple[int, str, str]]
    begun: ledger.Books
    #: Tasks that ran to their end and have no success, or the reverse.
    disagreeing: list[int]

    @property
    def balanced(self) -> bool:
        return self.begun.balanced and not (self.wrong or self.disagreeing)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.drawn.items()))
        return (
            f"{self.seconds:.1f} s; {kinds}; begun: {self.begun}; "
            f"wrong outcomes: {self.wrong[:5] or 'none'}; disagreeing: {self.disagreeing[:5] or 'none'}"
        )


def draw(count: int, seed: int) -> list[tuple[int, str, float]]:
    """Return `count` tasks: number, kind, seconds. Each kind comes at least once."""
    rng = random.Random(seed)
    drawn = []
    for number in range(count):
        kind, point, sum_ = "plain", rng.random(), 0.0
        for name, share in SHARES.items():
            sum_ += share
            if point < sum_:
                kind = name
                break
        drawn.append((number, kind, rng.uniform(0, LONGEST)))
    for kind in set(SHARES) - {kind for _, kind, _ in drawn}:
        place = rng.randrange(count)
        drawn[place] = (place, kind, 0.0)
    return drawn


def keep(fleet: poolfleet.PoolFleet, count: int, seed: int, timeout: float) -> Books:
    """Send `count` tasks and compare the books. Raises `AssertionError` when that takes longer than `timeout`."""
    drawn = draw(count, seed)
    name = "books.aentry" if fleet.pool == "asyncio" else "books.entry"
    began = time.monotonic()
    calls = (
        fleet.app.signature(name, task, **({"time_limit": HARD_LIMIT} if task[1] == "over" else {})) for task in drawn
    )
    results = fleet.app.send_many(calls)
    stored = results.join(timeout=timeout, propagate=False)
    seconds = time.monotonic() - began
    wait_for(lambda: fleet.ask("active") == fleet.ask("reserved") == [], 20, "an idle worker")
    assert queues.waiting(fleet.app.conf.settings.broker.url) == 0
    wrong = []
    succeeded = set()
    for (number, kind, _seconds), value in zip(drawn, stored, strict=True):
        expected = "SystemExit" if kind == "die" and fleet.pool != "prefork" else EXPECTED[kind]
        told = "SUCCESS" if value == number else f"{type(value).__name__} {value}"
        if value == number:
            succeeded.add(number)
        if expected not in told or (isinstance(value, WorkerLostError) and expected != "WorkerLostError"):
            wrong.append((number, kind, told))
    lines = ledger.lines(fleet.book)
    ended = {int(line.removeprefix("end:")) for line in lines if line.startswith("end:")}
    starts = fleet.directory / "starts"
    starts.write_text("".join(f"{line}\n" for line in lines if line.startswith("start:")))
    begun = ledger.balance((f"start:{number}" for number in range(count)), starts)
    return Books(seconds, Counter(kind for _, kind, _ in drawn), wrong, begun, sorted(ended ^ succeeded))


def main() -> int:
    """Keep the books of 20,000 tasks on every pool, or on those named."""
    pools = os.environ.get("BOOKS", "").split() or poolfleet.POOLS
    count, seed = int(os.environ.get("COUNT", "20000")), int(os.environ.get("SEED", "1"))
    good = True
    server = PrivateRedis()
    with contextlib.closing(server):
        server.start()
        request = SimpleNamespace(getfixturevalue=lambda name: server)
        for pool in pools:
            with (
                tempfile.TemporaryDirectory() as directory,
                poolfleet.running(
                    request, "redis", pool, Path(directory), concurrency=CONCURRENCY[pool], app="support.books"
                ) as fleet,
            ):
                books = keep(fleet, count, seed, 900)
            good = good and books.balanced
            sys.stdout.write(f"{pool} -c {CONCURRENCY[pool]}: {books}\n")
            sys.stdout.flush()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
