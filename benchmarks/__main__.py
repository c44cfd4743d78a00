"""`python -m benchmarks`: measure this framework and Celery side by side, and print the ratios.

1. Starts private brokers, as the tests do, and stops them.
2. Runs every measurement in turn on both systems, ours and Celery's interleaved, so that a slow minute hits both.
3. Writes `benchmarks/results/`: RESULTS.md, results.json (every run), chart.svg; with --readme the front page's table.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the tests' private brokers and process tools are used here too

from benchmarks import report  # noqa: E402
from benchmarks.measure import Broker  # noqa: E402
from benchmarks.plan import plan  # noqa: E402
from benchmarks.report import Row  # noqa: E402
from benchmarks.systems import CELERY, OURS, quick  # noqa: E402
from support.brokers import PrivateRabbit, PrivateRedis  # noqa: E402 - needs the path

#: unit, more is better
QUANTITIES = {
    "rate": ("tasks/s", True),
    "producer CPU": ("µs/task", False),
    "main CPU": ("µs/task", False),
    "children CPU": ("µs/task", False),
    "broker CPU": ("µs/task", False),
    "start": ("s", False),
    "p50": ("ms", False),
    "p99": ("ms", False),
    "memory": ("MB PSS", False),
    "seconds": ("s", False),
}
VERSIONS = ("framework", "celery", "kombu", "amqp", "redis", "hiredis", "msgspec")


@contextlib.contextmanager
def started(names: list[str]) -> Iterator[dict[str, Broker]]:
    """Start the servers that are needed."""
    with contextlib.ExitStack() as stack:
        redis = PrivateRedis()
        stack.callback(redis.close)
        redis.start()
        brokers = {}
        if "redis" in names:
            brokers["redis"] = Broker("redis", redis, redis.fresh_url, redis.fresh_url)
        if "amqp" in names:
            rabbit = PrivateRabbit()
            stack.callback(rabbit.close)
            rabbit.start()
            brokers["amqp"] = Broker("amqp", rabbit, rabbit.fresh_url, redis.fresh_url)
        if "sqlite" in names:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-sqlite-"))

            def fresh() -> str:
                return f"sqlite:///{folder}/{time.monotonic_ns()}.db"

            brokers["sqlite"] = Broker("sqlite", None, fresh, fresh)
        yield brokers


def run(args: argparse.Namespace) -> list[Row]:
    ours, celery = (quick(OURS), quick(CELERY)) if args.quick else (OURS, CELERY)
    rows: list[Row] = []
    with started(args.broker) as brokers:
        for name, measurement, both in plan(brokers, 120 if args.quick else 320):
            if args.only and not any(word in name for word in args.only):
                continue
            found: dict[str, dict[str, list[float]]] = {"ours": {}, "celery": {}}
            for _ in range(args.runs):
                for side, system in (("ours", ours), ("celery", celery)):
                    if side == "celery" and not both:
                        continue
                    for quantity, value in measurement(system).items():
                        found[side].setdefault(quantity, []).append(value)
            for quantity, (unit, more) in QUANTITIES.items():
                if quantity in found["ours"]:
                    numbers = tuple(found["ours"][quantity]), tuple(found["celery"].get(quantity, ()))
                    row = Row(name, quantity, unit, more, *numbers)
                    rows.append(row)
                    factor = "" if row.factor is None else f"{row.factor:8.2f}x"
                    print(
                        f"{row.key:46} {report.cell(row.ours):>26} {report.cell(row.celery):>26} {unit:8} {factor}",
                        flush=True,
                    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run with a fifth of the tasks: a rough picture")
    parser.add_argument("--runs", type=int, help="runs of each measurement (default 3; 1 with --quick)")
    parser.add_argument("--broker", action="append", choices=["redis", "amqp", "sqlite"], help="default: all")
    parser.add_argument("--only", action="append", help="only measurements whose name contains this; may be repeated")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="where the report goes")
    parser.add_argument("--readme", action="store_true", help="also write the short table into README.md")
    args = parser.parse_args()
    args.runs = args.runs or (1 if args.quick else 3)
    args.broker = args.broker or ["redis", "amqp", "sqlite"]
    rows = run(args)
    about = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "runs": args.runs,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    text = report.markdown(rows, about)
    (args.out / "RESULTS.md").write_text(text)
    (args.out / "results.json").write_text(
        json.dumps({"about": about, "rows": [row._asdict() for row in rows]}, indent=1)
    )
    (args.out / "chart.svg").write_text(report.chart(rows))
    if args.readme:
        page = ROOT / "README.md"
        pattern = re.compile(r"(<!-- begin numbers -->\n).*?(<!-- end numbers -->)", re.DOTALL)
        page.write_text(
            pattern.sub(lambda found: f"{found[1]}{report.summary(rows, about)}\n{found[2]}", page.read_text())
        )
    print("\n" + text)


if __name__ == "__main__":
    main()
