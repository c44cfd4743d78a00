"""What is measured, in which order: name, measurement, and whether Celery can do it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import measure
from benchmarks.measure import Broker
from benchmarks.systems import System

Measurement = Callable[[System], dict[str, float]]
Entry = tuple[str, Measurement, bool]

GREEN = ("gevent", "eventlet")


def plan(brokers: dict[str, Broker], samples: int) -> Iterator[Entry]:
    """Yield every measurement on `brokers`; `samples`: tasks of a latency run."""
    yield "help", measure.help_time, True
    yield "worker help", partial(measure.help_time, words=("worker",)), True
    for name, broker in brokers.items():
        # The embedded broker is one that Celery does not have.
        both = broker.server is not None
        yield from _sending(name, broker, both)
        yield from _draining(name, broker, both)
        yield from _waiting(name, broker, both)
        yield from _remote(name, broker, both)
        for pool in ("prefork", "threads"):
            yield (
                f"idle latency {name} {pool}",
                partial(measure.latency, broker=broker, pool=pool, samples=samples),
                both,
            )
    if "redis" in brokers:
        yield "idle redis prefork -c 8", partial(measure.memory, broker=brokers["redis"], slots=8), True


def _sending(name: str, broker: Broker, both: bool) -> Iterator[Entry]:
    yield f"enqueue one by one {name}", partial(measure.enqueue, broker=broker), both
    yield f"enqueue in bulk {name}", partial(measure.bulk, broker=broker), both


def _draining(name: str, broker: Broker, both: bool) -> Iterator[Entry]:
    drain = partial(measure.drain, broker=broker)
    for pool in ("prefork", "threads", "solo", *(GREEN if name == "redis" else ())):
        yield f"drain {name} {pool}", partial(drain, pool=pool), both
    yield f"drain {name} asyncio -c 100", partial(drain, pool="asyncio", task="anoop", slots=100), False
    yield f"drain with results {name} prefork", partial(drain, pool="prefork", results=True), both
    yield f"drain with events {name} prefork", partial(drain, pool="prefork", flags=("-E",)), both
    if name == "redis":
        recycling = partial(drain, pool="prefork", count=200, flags=("--max-tasks-per-child", "1"))
        yield f"drain {name} prefork, a process for each task", recycling, both


def _waiting(name: str, broker: Broker, both: bool) -> Iterator[Entry]:
    """Yield measurements of tasks that only wait."""
    if name == "redis":
        for pool in ("threads", *GREEN):
            yield f"io {name} {pool}", partial(measure.io, broker=broker, pool=pool), both
    yield f"io {name} asyncio", partial(measure.io, broker=broker, pool="asyncio", task="asleep"), False
    yield f"short behind long {name} prefork", partial(measure.fairness, broker=broker, pool="prefork"), both


def _remote(name: str, broker: Broker, both: bool) -> Iterator[Entry]:
    yield f"ping {name} idle", partial(measure.ping, broker=broker, busy=False), both
    yield f"ping {name} busy", partial(measure.ping, broker=broker, busy=True), both
    yield f"status of 50 workers {name}", partial(measure.crowd, broker=broker), False
