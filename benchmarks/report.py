"""From runs to pages: medians, ratios, targets, a Markdown table and a chart.

1. A `Row` is one quantity of one measurement: all runs of both systems.
2. `TARGETS` are the promises; a row that has one passes or does not.
3. `markdown` writes the tables, `chart` the SVG.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape


class Row(NamedTuple):
    """One quantity, measured on both systems (`celery` is empty where Celery has no such thing)."""

    measurement: str
    quantity: str
    unit: str
    more_is_better: bool
    ours: tuple[float, ...]
    celery: tuple[float, ...]

    @property
    def key(self) -> str:
        return f"{self.measurement} · {self.quantity}"

    @property
    def factor(self) -> float | None:
        """How many times better we are."""
        if not self.ours or not self.celery:
            return None
        ours, celery = statistics.median(self.ours), statistics.median(self.celery)
        if not ours or not celery:
            return None
        return ours / celery if self.more_is_better else celery / ours


class Target(NamedTuple):
    """A promise: so many times better than Celery, or at most so much."""

    key: str
    #: For people.
    label: str
    factor: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    #: So large a share of our own row of this key.
    share_of: tuple[float, str] | None = None

    def judge(self, row: Row, rows: dict[str, Row]) -> bool | None:
        """Say whether the promise is kept; None: what it is held against was not measured."""
        median = statistics.median(row.ours)
        if self.at_most is not None:
            return median <= self.at_most
        if self.at_least is not None:
            return median >= self.at_least
        if self.share_of is not None:
            share, key = self.share_of
            return median >= share * statistics.median(rows[key].ours) if key in rows else None
        return row.factor is not None and self.factor is not None and row.factor >= self.factor

    def __str__(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}"
        if self.share_of is not None:
            return f"≥ {self.share_of[0]:.0%} of {self.share_of[1]}"
        return f"≥ {self.factor:.3g}x"


VERDICTS = {True: "pass", False: "**missed**", None: "not measured"}


TARGETS = [
    Target("drain redis prefork · rate", "Redis, prefork -c 2: no-op tasks run", factor=15),
    Target("drain amqp prefork · rate", "RabbitMQ, prefork -c 2: no-op tasks run", factor=3),
    Target("drain redis threads · rate", "Redis, threads -c 2: no-op tasks run", factor=8),
    Target("drain redis solo · rate", "Redis, solo: no-op tasks run", factor=8),
    Target("drain redis gevent · rate", "Redis, gevent -c 2: no-op tasks run", factor=8),
    Target("drain redis eventlet · rate", "Redis, eventlet -c 2: no-op tasks run", factor=8),
    Target("io redis threads · seconds", "Redis, threads -c 100: 2,000 tasks of 50 ms", at_most=1.2),
    Target("io redis gevent · seconds", "Redis, gevent -c 100: 2,000 tasks of 50 ms", at_most=1.2),
    Target("io redis eventlet · seconds", "Redis, eventlet -c 100: 2,000 tasks of 50 ms", at_most=1.2),
    Target("io redis asyncio · seconds", "Redis, asyncio -c 100: 2,000 tasks of 50 ms", at_most=1.2),
    Target("drain redis asyncio -c 100 · rate", "Redis, asyncio -c 100: no-op tasks run", at_least=8000),
    Target("drain redis prefork, a process for each task · rate", "Redis: a new process for each task", at_least=150),
    Target(
        "drain with events redis prefork · rate",
        "Redis, prefork -c 2: with task events",
        share_of=(0.6, "drain redis prefork · rate"),
    ),
    Target("short behind long redis prefork · seconds", "Redis: 100 short tasks beside a long one, -c 2", at_most=1),
    Target("short behind long amqp prefork · seconds", "RabbitMQ: the same", at_most=1),
    Target("ping redis idle · p50", "Redis: ping, median", at_most=15),
    Target("ping redis busy · p50", "Redis: ping of a worker at full load, median", at_most=100),
    Target("ping amqp idle · p50", "RabbitMQ: ping, median", at_most=15),
    Target("ping amqp busy · p50", "RabbitMQ: ping of a worker at full load, median", at_most=100),
    Target("status of 50 workers redis · seconds", "Redis: `status` of 50 workers", at_most=2),
    Target("status of 50 workers amqp · seconds", "RabbitMQ: `status` of 50 workers", at_most=2),
    Target("enqueue one by one redis · rate", "Redis: sending, one by one", factor=2.5),
    Target("enqueue in bulk redis · rate", "Redis: sending, in bulk", factor=20),
    Target("idle latency redis prefork · p50", "Redis: send to start of an idle worker, median", factor=2),
    Target("idle latency redis prefork · p99", "the same, 99th percentile", factor=2),
    Target("drain redis prefork · start", "Start of the worker to its first task", factor=1),
    Target("help · seconds", "The command with --help", at_most=0.15),
    Target("idle latency redis prefork · memory", "Memory of the idle worker, prefork -c 2", factor=1 / 0.7),
    Target("idle redis prefork -c 8 · memory", "Memory of the idle worker, prefork -c 8", factor=1 / 0.4),
]


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def cell(runs: Sequence[float]) -> str:
    if not runs:
        return "-"
    middle = number(statistics.median(runs))
    return middle if len(runs) == 1 else f"{middle} ({number(min(runs))}-{number(max(runs))})"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [list(head), ["---"] * len(head), *map(list, lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    by_key = {row.key: row for row in rows}
    judged = []
    for target in TARGETS:
        if (row := by_key.get(target.key)) is not None:
            verdict = VERDICTS[target.judge(row, by_key)]
            factor = "-" if row.factor is None else f"{row.factor:.2f}x"
            judged.append([row.key, cell(row.ours), cell(row.celery), row.unit, factor, str(target), verdict])
    everything = [
        [
            row.measurement,
            row.quantity,
            cell(row.ours),
            cell(row.celery),
            row.unit,
            "-" if row.factor is None else f"{row.factor:.2f}x",
        ]
        for row in rows
    ]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return "\n".join(
        [
            "# Measured against Celery",
            "",
            f"{about['date']}, {about['cores']} cores, {about['runs']} interleaved runs each; median (lowest-highest).",
            f"{versions}.",
            "Factor: how many times better than Celery. How it is measured: `benchmarks/README.md`.",
            "",
            "## Targets",
            "",
            table(["what", "framework", "Celery", "unit", "factor", "target", ""], judged),
            "",
            "![factors](chart.svg)",
            "",
            "## Everything",
            "",
            table(["measurement", "quantity", "framework", "Celery", "unit", "factor"], everything),
            "",
        ]
    )


def summary(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Return the short table of the project's front page: the rows that have a target."""
    by_key = {row.key: row for row in rows}
    lines = []
    for target in TARGETS:
        row = by_key.get(target.key)
        if row is not None and row.factor is not None:
            ours, celery = number(statistics.median(row.ours)), number(statistics.median(row.celery))
            lines.append([target.label, f"{ours} {row.unit}", f"{celery} {row.unit}", f"{row.factor:.1f}x"])
    return f"Celery {about['versions']['celery']}:\n\n" + table(["", "framework", "Celery", "times better"], lines)


LEFT, RIGHT, LINE, TOP = 330, 90, 26, 46


def chart(rows: Sequence[Row]) -> str:
    """Draw every factor as a bar on a logarithmic scale; the line in the middle of it all is Celery."""
    shown = [(row, row.factor) for row in rows if row.factor is not None and "CPU" not in row.quantity]
    low = min(0.5, *(factor for _, factor in shown)) if shown else 0.5
    high = max(2.0, *(factor for _, factor in shown)) if shown else 2.0
    width = 560
    scale = width / (math.log(high) - math.log(low))

    def x(factor: float) -> float:
        return LEFT + (math.log(factor) - math.log(low)) * scale

    height = TOP + LINE * len(shown) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + width + RIGHT}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<text x="12" y="24" font-size="15" font-weight="600">Times better than Celery (logarithmic)</text>',
    ]
    for index, (row, factor) in enumerate(shown):
        y = TOP + index * LINE
        start, end = sorted((x(1), x(factor)))
        colour = "#2a7f62" if factor >= 1 else "#b4463c"
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end" fill="#222">{escape(row.key)}</text>',
            f'<rect x="{start:.1f}" y="{y + 3}" width="{max(1.0, end - start):.1f}" height="16" fill="{colour}"/>',
            f'<text x="{end + 6:.1f}" y="{y + 15}" fill="#222">{factor:.1f}x</text>',
        ]
    parts.append(f'<line x1="{x(1):.1f}" y1="{TOP - 6}" x2="{x(1):.1f}" y2="{height - 8}" stroke="#555"/>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
