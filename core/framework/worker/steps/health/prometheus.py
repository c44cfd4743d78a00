"""The metrics of a worker, in Prometheus' text format.

1. `FAMILIES` is the list: name, type, labels, help, and where the values come from. The manual's table is made of it.
2. `exposition` writes them. It is called in the endpoint's thread and reads nothing but samples and counts.

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
#: The values of the labels, and the number.
Value: TypeAlias = tuple[tuple[str, ...], float]


class MetricsSource(NamedTuple):
    """What there is to tell of a worker."""

    hostname: str
    pool: str
    #: `time.monotonic` seconds.
    began: float
    sampler: HealthSampler
    counters: Counters
    #: Steps that should run and do not, with the reason.
    missing: Callable[[], Mapping[str, str]]


class MetricFamily(NamedTuple):
    """One metric."""

    name: str
    type: str
    help: str
    values: Callable[[MetricsSource], Iterable[Value]]
    labels: tuple[str, ...] = ()


def _one(value: Callable[[MetricsSource], float | None]) -> Callable[[MetricsSource], Iterable[Value]]:
    """Return what gives the one value of a family without labels; None: there is none."""

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


def _letters(source: MetricsSource) -> Iterator[Value]:
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
            continue  # it has just ended
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
        "Always 1; the labels say which worker this is.",
        lambda source: [((source.hostname, source.pool, __version__), 1)],
        ("node", "pool", "version"),
    ),
    MetricFamily(
        "framework_worker_live", "gauge", "1: the loop turns and tasks can start.", _one(lambda s: not s.sampler.dead())
    ),
    MetricFamily("framework_worker_ready", "gauge", "1: the worker consumes.", _one(lambda s: not s.sampler.idle())),
    MetricFamily(
        "framework_worker_uptime_seconds",
        "gauge",
        "Seconds since the worker began.",
        _one(lambda s: time.monotonic() - s.began),
    ),
    MetricFamily(
        "framework_worker_loop_age_seconds",
        "gauge",
        "Seconds since the loop last showed that it turns; it does so every second.",
        _one(lambda s: time.monotonic() - s.sampler.sample.when),
    ),
    MetricFamily(
        "framework_worker_steps_missing",
        "gauge",
        "Steps that should run and could not be started.",
        _one(lambda s: len(s.missing())),
    ),
    MetricFamily(
        "framework_tasks_total",
        "counter",
        "Tasks that have ended, by task and how. With more than 500 tasks the rest is (others).",
        _tasks,
        ("task", "outcome"),
    ),
    MetricFamily(
        "framework_tasks_started_total", "counter", "Tasks that have begun to run.", _one(lambda s: s.counters.starts)
    ),
    MetricFamily(
        "framework_tasks_redelivered_total",
        "counter",
        "Tasks that have ended here and had been handed out before.",
        _one(lambda s: s.counters.redelivered),
    ),
    MetricFamily(
        "framework_task_runtime_seconds_total",
        "counter",
        "Seconds for which tasks have run, by task.",
        _by_task(lambda count: count.seconds),
        ("task",),
    ),
    MetricFamily(
        "framework_task_runs_total",
        "counter",
        "Runs of tasks that these seconds were spent in, by task.",
        _by_task(lambda count: count.runs),
        ("task",),
    ),
    MetricFamily("framework_tasks_active", "gauge", "Tasks that run now.", _one(lambda s: s.sampler.sample.active)),
    MetricFamily(
        "framework_tasks_reserved",
        "gauge",
        "Tasks that were taken in and wait for a slot.",
        _one(lambda s: s.sampler.sample.reserved + s.sampler.sample.backlog),
    ),
    MetricFamily(
        "framework_tasks_limited",
        "gauge",
        "Tasks that wait for their turn under a rate limit.",
        _one(lambda s: s.sampler.sample.limited),
    ),
    MetricFamily(
        "framework_tasks_scheduled",
        "gauge",
        "Tasks that are held for their eta.",
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
        "Processes of the pool; absent where it has none.",
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
        "Messages that the worker would hold at a time; 65535 is no limit.",
        _one(lambda s: s.sampler.sample.prefetch),
    ),
    MetricFamily(
        "framework_broker_connected",
        "gauge",
        "1: there is a connection to the broker.",
        _one(lambda s: s.sampler.connected),
    ),
    MetricFamily(
        "framework_broker_connections_total",
        "counter",
        "Connections to the broker over which the worker has consumed; the first is no reconnection.",
        _one(lambda s: s.sampler.connections),
    ),
    MetricFamily(
        "framework_dead_letters_total",
        "counter",
        "Messages moved to a dead-letter queue, by reason.",
        _letters,
        ("reason",),
    ),
    MetricFamily(
        "framework_results_unstored",
        "gauge",
        "Results that wait for a result store that is away.",
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
        "When the worker began, as Unix time.",
        _one(lambda s: time.time() - (time.monotonic() - s.began)),
    ),
    MetricFamily("process_open_fds", "gauge", "Open file descriptors of the main process.", _one(_descriptors)),
)


def exposition(source: MetricsSource) -> str:
    """Return all metrics as text."""
    return "".join(_written(family, source) for family in FAMILIES)


def _written(family: MetricFamily, source: MetricsSource) -> str:
    lines = [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.type}"]
    for labels, number in family.values(source):
        pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(family.labels, labels, strict=True))
        lines.append(f"{family.name}{f'{{{pairs}}}' if pairs else ''} {float(number)!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
