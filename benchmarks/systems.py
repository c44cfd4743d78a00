"""The two systems: how to start their workers and producers.

1. `System` knows the command line of a worker and the folder of its `bench_app`.
2. Celery runs with its defaults, less gossip, mingle and heartbeats, which would only cost it time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


class System(NamedTuple):
    """One of the compared systems."""

    name: str
    program: str
    folder: Path
    flags: tuple[str, ...]
    #: Tasks in a drain; about two seconds of work or more for each.
    drain: int
    enqueue: int
    bulk: int

    def worker(self, pool: str, slots: int, flags: tuple[str, ...] = ()) -> list[str]:
        """Return the command line of a worker."""
        command = [str(BIN / self.program), "-A", "bench_app", "worker", f"--pool={pool}", "-c", str(slots)]
        return [*command, *self.flags, *flags]

    def environment(self, cells: Path, broker: str, results: str | None) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FRAMEWORK_", "CELERY"))}
        own = {"PYTHONPATH": f"{self.folder}:{HERE.parent}", "BENCH_CELLS": str(cells), "BENCH_BROKER_URL": broker}
        if results is not None:
            own["BENCH_RESULT_URL"] = results
        return kept | own


QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
OURS = System("framework", "framework", HERE / "apps" / "ours", (), 60_000, 5_000, 40_000)
CELERY = System("celery", "celery", HERE / "apps" / "celery", QUIET, 4_000, 2_000, 4_000)


def quick(system: System) -> System:
    """Return `system` with a fifth of the tasks."""
    return system._replace(drain=system.drain // 5, enqueue=system.enqueue // 5, bulk=system.bulk // 5)
