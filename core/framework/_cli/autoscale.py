"""``framework autoscale``: simulates an autoscaler on a pattern of tasks."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from framework._cli.config import resolved
from framework._cli.output import json_option, pass_session, print_json, print_table
from framework._cli.program import Section
from framework._cli.session import CommandSession
from framework._config.autoscale import autoscale_range
from framework.exceptions import ConfigError
from framework.testing.simulation import (
    PATTERNS,
    SimulatedLoad,
    SimulatedTask,
    Simulation,
    SimulationReport,
    SimulationSample,
)
from framework.worker.autoscaler.driver import AutoscalerDriver
from framework.worker.intake.capacity import Prefetch

_WIDTH: Final = 72
_HEIGHT: Final = 6
#: Characters for 0 to 8 eighths of a cell.
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
#: Samples in the JSON output.
_POINTS: Final = 200


@click.group(cls=Section, help="Simulate an autoscaler on a pattern of tasks.")
def command() -> None:
    """Group the sub-commands."""


@command.command(help="Show how an autoscaler would size a pool for a pattern of tasks, and the cost. Runs no task.")
@click.option("--pattern", type=click.Choice(["burst", "steady", "day"]), help="A built-in pattern of tasks.")
@click.option(
    "--trace", metavar="FILE", help="Read tasks from a file, one per line: second of sending, seconds of run time."
)
@click.option("--autoscale", "bounds", metavar="MAX,MIN", help="Pool size limits. Default: the setting, else 10,1.")
@click.option("--autoscaler", "name", metavar="NAME", help="Autoscaler, or a class path. Default: the setting.")
@click.option("--keepalive", type=float, metavar="SECONDS", help="Keep-alive time. Default: the setting.")
@click.option("--cpus", type=click.IntRange(1), default=4, show_default=True, help="CPUs of the machine.")
@click.option("--cpu-share", type=float, default=1.0, show_default=True, help="CPUs that a running task uses.")
@click.option("--memory", type=click.IntRange(1), default=8192, show_default=True, help="MiB of the machine.")
@click.option("--slot-memory", type=click.IntRange(0), default=128, show_default=True, help="MiB that a slot uses.")
@click.option("--startup", type=float, default=0.05, show_default=True, help="Seconds that a new slot takes to start.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the random pattern.")
@json_option
@pass_session
def simulate(
    session: CommandSession,
    pattern: str | None,
    trace: str | None,
    bounds: str | None,
    name: str | None,
    keepalive: float | None,
    cpus: int,
    cpu_share: float,
    memory: int,
    slot_memory: int,
    startup: float,
    seed: int,
    as_json: bool,
) -> None:
    """Run the simulation and print the result."""
    # Start-up time: importing the steps doubles it.
    from framework.worker.steps.autoscale import choose

    if (pattern is None) == (trace is None):
        raise click.UsageError("give either --pattern or --trace")
    settings = resolved(session).settings
    worker = settings.worker
    name = name or worker.autoscaler
    driver, decider = choose(msgspec.structs.replace(settings, worker=msgspec.structs.replace(worker, autoscaler=name)))
    if driver is not AutoscalerDriver:
        raise ConfigError(
            f"{name} scales by hand (_maybe_scale) and cannot be simulated: "
            f"subclass framework.api.autoscaler.Autoscaler instead"
        )
    jobs = PATTERNS[pattern](random.Random(seed)) if pattern is not None else read_trace(Path(str(trace)))
    sizes = autoscale_range(bounds or worker.autoscale or "10,1")
    keep = worker.autoscale_keepalive if keepalive is None else keepalive
    world = SimulatedLoad(cpus=cpus, cpu_share=cpu_share, memory_mib=memory, slot_mib=slot_memory, startup=startup)
    report = Simulation(decider, sizes, keep, Prefetch.of(worker, sizes.start), world).run(jobs)
    about = {"autoscaler": name, "max": sizes.largest, "min": sizes.smallest, "keepalive": keep}
    if as_json:
        samples = resampled(report.samples, report.duration, _POINTS)
        print_json(about | msgspec.to_builtins(report) | {"samples": [sample._asdict() for sample in samples]})
        return
    click.echo(draw(report))
    print_table(session, ("", "value"), rows(report, about))


def read_trace(path: Path) -> list[SimulatedTask]:
    """Read the tasks in `path`, one ``sent,runtime`` pair per line in seconds; skip a heading and empty lines."""
    jobs = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the trace {path} cannot be read: {error}") from None
    for number, line in enumerate(csv.reader(lines), 1):
        if not line or (number == 1 and not line[0].strip()[:1].isdigit()):
            continue
        try:
            sent, runs = (float(word) for word in line[:2])
        except ValueError:
            sent = runs = -1.0
        if not (0 <= sent < float("inf") and 0 <= runs < float("inf")):
            raise ConfigError(f"{path}, line {number}: wanted two numbers, like 12.5,0.3, and found {','.join(line)!r}")
        jobs.append(SimulatedTask(sent, runs))
    if not jobs:
        raise ConfigError(f"the trace {path} lists no tasks; wanted one per line, like 12.5,0.3")
    return sorted(jobs)


def resampled(samples: Sequence[SimulationSample], duration: float, points: int) -> list[SimulationSample]:
    """Return `points` evenly spaced samples, each with the largest values of its interval."""
    found = []
    index = 0
    for point in range(points):
        start, end = duration * point / points, duration * (point + 1) / points
        # The sample in force when the interval begins counts as well.
        inside = [samples[index]]
        while index + 1 < len(samples) and samples[index + 1].time < end:
            index += 1
            inside.append(samples[index])
        found.append(SimulationSample(start, *(max(column) for column in list(zip(*inside, strict=True))[1:])))
    return found


def draw(report: SimulationReport) -> str:
    """Return a text chart of the queue length and, below it, of the pool size."""
    samples = resampled(report.samples, report.duration, _WIDTH)
    columns = [sample.waiting for sample in samples], [sample.size for sample in samples]
    ends = f"{'':8}0 s{_length(report.duration):>{_WIDTH - 3}}"
    return "\n".join([*_bars("waiting", columns[0]), *_bars("slots", columns[1]), ends, ""])


def _bars(title: str, values: Sequence[int]) -> list[str]:
    top = max(*values, 1)
    lines = [title]
    for row in range(_HEIGHT, 0, -1):
        label = str(top) if row == _HEIGHT else ""
        cells = ""
        for value in values:
            eighths = round(value / top * _HEIGHT * 8) - (row - 1) * 8
            if value and row == 1:
                # A value above 0 stays visible.
                eighths = max(1, eighths)
            cells += _BLOCKS[max(0, min(8, eighths))]
        lines.append(f"{label:>6} ┤{cells}".rstrip())
    return lines


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds:.0f} s"


def rows(report: SimulationReport, about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the cost table."""
    saved = 1 - report.slot_seconds / report.fixed_slot_seconds if report.fixed_slot_seconds else 0.0
    return [
        ("autoscaler", f"{about['autoscaler']}, {about['min']} to {about['max']} slots"),
        ("tasks", f"{report.tasks}"),
        ("slot-seconds", f"{report.slot_seconds:.0f} ({saved:.0%} less than {about['max']} slots all the time)"),
        ("slots in use", f"{report.used:.0%}"),
        ("largest size", f"{report.largest_size}"),
        ("changes", f"{report.ups} up, {report.downs} down"),
        ("mean wait", f"{report.wait_mean:.2f} s"),
        ("p99 wait", f"{report.wait_p99:.2f} s"),
        ("longest wait", f"{report.wait_max:.2f} s"),
    ]
