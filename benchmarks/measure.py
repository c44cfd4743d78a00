"""The measurements: each takes a system and a broker, does one run, and returns numbers by name.

1. `enqueue`, `bulk`: rate and CPU of a producer.
2. `drain`: tasks wait before the worker starts; rate between first and last start, CPU of main process, children and
   broker. Also gives the time from exec to the first task.
3. `io`: tasks that only wait, many at once; the time they all take.
4. `latency`: percentiles of an idle worker. Also gives the memory of its process tree.
5. `ping`: percentiles of remote control's answers, of an idle worker or of one that is busy.
6. `fairness`: how long short tasks wait behind a long one. `memory`: of an idle worker.
7. `crowd`: how long `status` takes as a whole process when many workers are there.
8. `help_time`: how long `--help` takes.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.cells import Cells
from benchmarks.systems import BIN, System
from benchmarks.usage import cpu, pss
from support.brokers import PrivateServer
from support.processes import kill_all, members, spawn, tail
from support.wait import wait_for

LIMIT = 180.0
#: The waiting tasks, how many at once, and how long each takes (`nap` of the applications).
NAPS = 2_000
NAPPING = 100
NAP = 0.05
PINGS = 30
#: Short tasks beside a long one.
SHORT = 100
#: Workers in the crowd.
CROWD = 50


class Broker(NamedTuple):
    """A broker to measure on."""

    name: str
    #: None: embedded, there is no server process.
    server: PrivateServer | None
    fresh_url: Callable[[], str]
    #: An empty result store.
    fresh_results: Callable[[], str]

    def processes(self) -> list[psutil.Process]:
        return members(self.server.pid) if self.server is not None else []


class Bench:
    """One run of one system: its cells, its broker's empty place, its processes."""

    def __init__(self, system: System, broker: Broker, count: int, *, results: bool = False) -> None:
        self.system = system
        self.broker = broker
        self.count = count
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self.directory = Path(self._directory.name)
        self.cells = Cells.create(self.directory / "cells", count)
        self.log = self.directory / "worker.log"
        self.environment = system.environment(
            self.directory / "cells", broker.fresh_url(), broker.fresh_results() if results else None
        )

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def produce(self, operation: str, task: str = "noop", count: int | None = None) -> dict[str, Any]:
        """Run a producer process to its end."""
        argv = [str(BIN / "python"), "-m", "benchmarks.producer", operation, task, str(count or self.count)]
        done = subprocess.run(
            argv, env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self.system.name} producer: {done.stdout}{done.stderr}{tail(self.log)}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    @contextlib.contextmanager
    def worker(self, pool: str, slots: int = 2, flags: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker while the block runs."""
        process = spawn(self.system.worker(pool, slots, flags), log=self.log, cwd=self.directory, env=self.environment)
        try:
            yield process
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        finally:
            kill_all(members(process.pid))
            process.wait(10)

    def wait(self, condition: Callable[[], object], what: str, process: subprocess.Popen[bytes]) -> None:
        wait_for(
            lambda: process.poll() is not None or condition(),
            LIMIT,
            lambda: f"{what}: {self.cells.done()} of {self.count} done\n{tail(self.log)}",
        )
        if process.poll() is not None:
            raise RuntimeError(f"the {self.system.name} worker ended with {process.returncode}:\n{tail(self.log)}")


def enqueue(system: System, broker: Broker) -> dict[str, float]:
    return _produce(system, broker, "send", system.enqueue)


def bulk(system: System, broker: Broker) -> dict[str, float]:
    return _produce(system, broker, "bulk", system.bulk)


def _produce(system: System, broker: Broker, operation: str, count: int) -> dict[str, float]:
    with Bench(system, broker, count) as bench:
        used = bench.produce(operation)
    return {"rate": count / used["seconds"], "producer CPU": used["cpu"] / count * 1e6}


def drain(
    system: System,
    broker: Broker,
    pool: str,
    *,
    results: bool = False,
    task: str = "",
    slots: int = 2,
    count: int = 0,
    flags: tuple[str, ...] = (),
) -> dict[str, float]:
    with Bench(system, broker, count or system.drain, results=results) as bench:
        bench.produce("bulk", task or ("noop_result" if results else "noop"))
        begun = time.monotonic_ns()
        with bench.worker(pool, slots, flags) as process:
            bench.wait(lambda: bench.cells.done(), "the first task", process)
            main, server = [psutil.Process(process.pid)], broker.processes()
            children = [child for child in members(process.pid) if child.pid != process.pid]
            before = cpu(main), cpu(children), cpu(server)
            already = bench.cells.done()
            bench.wait(bench.cells.all_done, "the last task", process)
            after = cpu(main), cpu(children), cpu(server)
        first, last = bench.cells.span()
        duplicates = bench.cells.duplicates()
    if duplicates:
        raise RuntimeError(f"{system.name} ran {duplicates} tasks twice")
    tasks = max(1, bench.count - already)
    spent = [(late - early) / tasks * 1e6 for early, late in zip(before, after, strict=True)]
    return {
        "rate": (bench.count - 1) / ((last - first) / 1e9),
        "start": (first - begun) / 1e9,
        "main CPU": spent[0],
        "children CPU": spent[1],
        "broker CPU": spent[2],
    }


def io(system: System, broker: Broker, pool: str, task: str = "nap") -> dict[str, float]:
    with Bench(system, broker, NAPS) as bench:
        bench.produce("bulk", task)
        with bench.worker(pool, NAPPING) as process:
            bench.wait(bench.cells.all_done, "the last nap", process)
        first, last = bench.cells.span()
        duplicates = bench.cells.duplicates()
    if duplicates:
        raise RuntimeError(f"{system.name} ran {duplicates} tasks twice")
    return {"seconds": (last - first) / 1e9 + NAP}


def latency(system: System, broker: Broker, pool: str, samples: int) -> dict[str, float]:
    with Bench(system, broker, samples) as bench, bench.worker(pool) as process:
        found: list[float] = bench.produce("latency")["latencies"]
        memory = pss(members(process.pid))
    return {"p50": statistics.median(found), "p99": found[int(len(found) * 0.99)], "memory": memory}


def ping(system: System, broker: Broker, *, busy: bool) -> dict[str, float]:
    # So much that it lasts longer than the pings.
    with Bench(system, broker, system.drain * 3 if busy else 1) as bench:
        if busy:
            bench.produce("bulk")
        with bench.worker("prefork") as process:
            if busy:
                bench.wait(lambda: bench.cells.done(), "the first task", process)
            found: list[float] = bench.produce("ping", count=PINGS)["latencies"]
            if busy and bench.cells.all_done():
                raise RuntimeError(f"{system.name} was no longer busy when the last ping was answered")
    return {"p50": statistics.median(found), "p99": found[int(len(found) * 0.99)]}


def crowd(system: System, broker: Broker) -> dict[str, float]:
    with Bench(system, broker, 1) as bench, contextlib.ExitStack() as stack:
        for number in range(CROWD):
            stack.enter_context(bench.worker("solo", 1, ("-n", f"w{number}@here")))
        command = [str(BIN / system.program), "-A", "bench_app", "status"]

        def status() -> float | None:
            begun = time.perf_counter()
            done = subprocess.run(
                command, env=bench.environment, cwd=bench.directory, capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - begun
            return seconds if f"{CROWD} nodes online" in done.stdout else None

        wait_for(status, LIMIT, f"{CROWD} workers to be online")
        found = [seconds for _ in range(3) if (seconds := status()) is not None]
    if len(found) < 3:
        raise RuntimeError(f"status did not find all of {CROWD} workers")
    return {"seconds": statistics.median(found)}


def fairness(system: System, broker: Broker, pool: str) -> dict[str, float]:
    """One task of five seconds, and then a hundred short ones, on two slots: when the last short one begins."""
    with Bench(system, broker, SHORT + 1) as bench, bench.worker(pool) as process:
        bench.produce("fairness")
        bench.wait(bench.cells.all_done, "the last short task", process)
        first, last = bench.cells.span()
    return {"seconds": (last - first) / 1e9}


def memory(system: System, broker: Broker, slots: int) -> dict[str, float]:
    with Bench(system, broker, 100) as bench, bench.worker("prefork", slots) as process:
        bench.produce("latency")
        return {"memory": pss(members(process.pid))}


def help_time(system: System, words: tuple[str, ...] = ()) -> dict[str, float]:
    begun = time.perf_counter()
    subprocess.run([str(BIN / system.program), *words, "--help"], stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.perf_counter() - begun}
