"""The metrics of a worker, in Prometheus' text format.

1. `FAMILIES` lists them: name, type, labels, help, and a function for the values. The manual's table comes from it.
2. `exposition` formats them. It runs in the endpoint's thread and reads only samples and counters.

Source: the text exposition format 0.0.4 and the naming rules of Prometheus.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

from framework import __version__
from framework.worker.steps.health.counters import ENDS, Counter, Counters
from framework.worker.steps.health.sample import HealthSampler

KIND: Final = "text/plain; version=0.0.4; charset=utf-8"
#: The label values, and the number.
Value: TypeAlias = tuple[tuple[str, ...], float]


class MetricsSource(NamedTuple):
    """The inputs of the exposition."""

    hostname: str
    pool: str
    #: Start of the worker, `time.monotonic` seconds.
    began: float
    sampler: HealthSampler
    counters: Counters
    #: Returns the steps that could not be started, with the reason.
    missing: Callable[[], Mapping[str, str]]


class MetricFamily(NamedTuple):
    """One metric."""

    name: str
    type: str
    help: str
    values: Callable[[MetricsSource], Iterable[Value]]
    labels: tuple[str, ...] = ()


def _one(value: Callable[[MetricsSource], float | None]) -> Callable[[MetricsSource], Iterable[Value]]:
    """Return the `values` of a family without labels; if `value` returns None, the family has no value."""

    def values(source: MetricsSource) -> Iterable[Value]:
        found = value(source)
        return () if found is None else (((), found),)

    return values


def _tasks(source: MetricsSource) -> Iterator[Value]:
    for name, count in sorted(source.counters.tasks.copy().items()):
        for code, word in ENDS.items():
            if number := count.ends[code]:
                yield (name, word), number


def _by_task(value: Callable[[Counter], float]) -> Callable[[MetricsSource], Iterable[Value]]:
    return lambda source: [((name,), value(count)) for name, count in sorted(source.counters.tasks.copy().items())]


def _dead_letters(source: MetricsSource) -> Iterator[Value]:
    for reason, number in sorted(source.sampler.sample.dead_letters.items()):
        yield (reason,), number


def _resident(pid: int | str) -> int:
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _own_memory(_source: MetricsSource) -> float | None:
    try:
        return _resident("self")
    except OSError:
        return None  # not Linux


def _children_memory(source: MetricsSource) -> float | None:
    total = 0
    for pid in source.sampler.sample.pids:
        try:
            total += _resident(pid)
        except OSError:
            continue  # the process has just ended
    return total or None


def _descriptors(_source: MetricsSource) -> float | None:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


FAMILIES: Final = (
    MetricFamily(
        "framework_worker_info",
        "gauge",
        "Always 1; the labels identify the worker.",
        lambda source: [((source.hostname, source.pool, __version__), 1)],
        ("node", "pool", "version"),
    ),
    MetricFamily(
        "framework_worker_live",
        "gauge",
        "1: the loop runs and tasks can start.",
        _one(lambda s: not s.sampler.not_live()),
    ),
    MetricFamily(
        "framework_worker_ready", "gauge", "1: the worker consumes.", _one(lambda s: not s.sampler.not_ready())
    ),
    MetricFamily(
        "framework_worker_uptime_seconds",
        "gauge",
        "Seconds since the worker started.",
        _one(lambda s: time.monotonic() - s.began),
    ),
    MetricFamily(
        "framework_worker_loop_age_seconds",
        "gauge",
        "Seconds since the last sample; the loop takes one every second.",
        _one(lambda s: time.monotonic() - s.sampler.sample.when),
    ),
    MetricFamily(
        "framework_worker_steps_missing",
        "gauge",
        "Enabled steps that could not be started.",
        _one(lambda s: len(s.missing())),
    ),
    MetricFamily(
        "framework_tasks_total",
        "counter",
        "Tasks that have ended, by task and outcome. After 500 task names, further ones are (others).",
        _tasks,
        ("task", "outcome"),
    ),
    MetricFamily(
        "framework_tasks_started_total", "counter", "Tasks that have started.", _one(lambda s: s.counters.starts)
    ),
    MetricFamily(
        "framework_tasks_redelivered_total",
        "counter",
        "Tasks that have ended here and had been redelivered.",
        _one(lambda s: s.counters.redelivered),
    ),
    MetricFamily(
        "framework_task_runtime_seconds_total",
        "counter",
        "Total run time of tasks, by task.",
        _by_task(lambda count: count.seconds),
        ("task",),
    ),
    MetricFamily(
        "framework_task_runs_total",
        "counter",
        "Number of runs in this run time, by task.",
        _by_task(lambda count: count.runs),
        ("task",),
    ),
    MetricFamily("framework_tasks_active", "gauge", "Running tasks.", _one(lambda s: s.sampler.sample.active)),
    MetricFamily(
        "framework_tasks_reserved",
        "gauge",
        "Received tasks that wait for a slot.",
        _one(lambda s: s.sampler.sample.reserved + s.sampler.sample.backlog),
    ),
    MetricFamily(
        "framework_tasks_limited",
        "gauge",
        "Tasks that wait for a rate limit.",
        _one(lambda s: s.sampler.sample.limited),
    ),
    MetricFamily(
        "framework_tasks_scheduled",
        "gauge",
        "Tasks that the worker holds until their eta.",
        _one(lambda s: s.sampler.sample.scheduled),
    ),
    MetricFamily("framework_pool_slots", "gauge", "Slots of the pool.", _one(lambda s: s.sampler.sample.slots)),
    MetricFamily(
        "framework_pool_slots_stuck",
        "gauge",
        "Slots whose process is stopped or whose task is past its time limit.",
        _one(lambda s: len(s.sampler.sample.stuck())),
    ),
    MetricFamily(
        "framework_pool_processes",
        "gauge",
        "Processes of the pool; absent for pools without processes.",
        _one(lambda s: len(s.sampler.sample.pids) or None),
    ),
    MetricFamily(
        "framework_pool_resident_memory_bytes",
        "gauge",
        "Resident memory of the pool's processes, shared pages counted in each.",
        _one(_children_memory),
    ),
    MetricFamily(
        "framework_prefetch_limit",
        "gauge",
        "The most messages that the worker holds at a time; 65535 means unlimited.",
        _one(lambda s: s.sampler.sample.prefetch),
    ),
    MetricFamily(
        "framework_broker_connected",
        "gauge",
        "1: the worker is connected to the broker.",
        _one(lambda s: s.sampler.connected),
    ),
    MetricFamily(
        "framework_broker_connections_total",
        "counter",
        "Connections to the broker so far, the first one included.",
        _one(lambda s: s.sampler.connections),
    ),
    MetricFamily(
        "framework_dead_letters_total",
        "counter",
        "Messages moved to a dead-letter queue, by reason.",
        _dead_letters,
        ("reason",),
    ),
    MetricFamily(
        "framework_results_unstored",
        "gauge",
        "Results that wait because the result store is unreachable.",
        _one(lambda s: s.sampler.sample.unstored),
    ),
    MetricFamily(
        "process_resident_memory_bytes", "gauge", "Resident memory of the worker's main process.", _one(_own_memory)
    ),
    MetricFamily(
        "process_cpu_seconds_total", "counter", "CPU time of the main process.", _one(lambda _s: time.process_time())
    ),
    MetricFamily(
        "process_start_time_seconds",
        "gauge",
        "Start of the worker, as Unix time.",
        _one(lambda s: time.time() - (time.monotonic() - s.began)),
    ),
    MetricFamily("process_open_fds", "gauge", "Open file descriptors of the main process.", _one(_descriptors)),
)


def exposition(source: MetricsSource) -> str:
    """Return all metrics in the text format."""
    return "".join(_format_family(family, source) for family in FAMILIES)


def _format_family(family: MetricFamily, source: MetricsSource) -> str:
    lines = [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.type}"]
    for labels, number in family.values(source):
        pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(family.labels, labels, strict=True))
        lines.append(f"{family.name}{f'{{{pairs}}}' if pairs else ''} {float(number)!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
