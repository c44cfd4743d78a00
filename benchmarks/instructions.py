"""`python -m benchmarks.instructions`: count the CPU instructions of a task, which vary less than its time.

1. `worker`: a solo worker on Redis runs no-op tasks that wait in the queue. `send`: a producer calls `delay`.
2. Runs each under valgrind with few and with many tasks: the difference is what a task costs, without the start.
3. The worker's two threads take turns by the clock, and its batches follow run times: on a busy machine it polls more
   for each task. The smallest of several runs (--runs) comes nearest; the producer's count hardly varies.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the tests' private brokers and process tools are used here too

from benchmarks.measure import Bench, Broker  # noqa: E402
from benchmarks.systems import BIN, OURS  # noqa: E402
from support.brokers import PrivateRedis  # noqa: E402 - needs the path
from support.processes import kill_all, members, spawn, tail  # noqa: E402
from support.wait import wait_for  # noqa: E402

FEW, MANY = 500, 5_500
#: Seconds for one run: valgrind runs a program about fifty times slower.
LIMIT = 900.0
VALGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")


def worker(bench: Bench) -> int:
    """Return the instructions of a solo worker that runs all tasks of `bench`."""
    bench.produce("bulk")
    command = [*VALGRIND, str(BIN / "python"), *OURS.worker("solo", 1)]
    process = spawn(command, log=bench.log, cwd=bench.directory, env=bench.environment)
    try:
        wait_for(
            lambda: process.poll() is not None or bench.cells.all_done(),
            LIMIT,
            lambda: f"{bench.cells.done()} of {bench.count} done\n{tail(bench.log)}",
        )
        process.terminate()
        process.wait(LIMIT)
    finally:
        kill_all(members(process.pid))
        process.wait(10)
    return collected(bench.log.read_text())


def send(bench: Bench) -> int:
    """Return the instructions of a producer that calls `delay` for each task of `bench`."""
    command = [*VALGRIND, str(BIN / "python"), "-m", "benchmarks.producer", "send", "noop", str(bench.count)]
    done = subprocess.run(
        command, env=bench.environment, cwd=bench.directory, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return collected(done.stderr)


def collected(text: str) -> int:
    """Return the count that valgrind has printed in `text`."""
    found = re.search(r"Collected : (\d+)", text)
    if found is None:
        raise SystemExit(f"valgrind has printed no count:\n{text[-2000:]}")
    return int(found[1])


MEASUREMENTS = {"worker": worker, "send": send}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="leave out the other measurement")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="print the smallest of N runs (default: 1)")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed (Debian: apt install valgrind)")
    with contextlib.closing(PrivateRedis()) as server:
        server.start()
        broker = Broker("redis", server, server.fresh_url, server.fresh_url)
        for name in args.only or MEASUREMENTS:
            per_task = []
            for _ in range(args.runs):
                totals = []
                for count in (FEW, MANY):
                    with Bench(OURS, broker, count) as bench:
                        totals.append(MEASUREMENTS[name](bench))
                per_task.append((totals[1] - totals[0]) // (MANY - FEW))
            print(f"{name}: {min(per_task):,} instructions per task", flush=True)


if __name__ == "__main__":
    main()
