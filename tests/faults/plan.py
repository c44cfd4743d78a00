"""What a run is to be, drawn from a seed: the same seed gives the same tasks and the same faults at the same times.

1. `draw` returns events in order of time: batches of tasks to send, and faults with whatever they need to know.
2. Faults come a few seconds apart, each for one worker or for the broker; what lasts has its seconds.
"""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple

from faults.accounts import Sent

#: The worker that nobody kills, and the one that is killed and started again.
STEADY: Final = "steady"
VICTIM: Final = "victim"
#: How often each fault comes, in proportion.
_EVERYWHERE: Final = {"kill": 3, "kill-child": 3, "stop": 3}
_NETWORK: Final = {"cut": 3, "cut-after": 3, "freeze": 2, "slow": 2, "refuse": 2}
WEIGHTS: Final = {
    "redis": _EVERYWHERE | _NETWORK | {"client-kill": 2, "script-flush": 2},
    "amqp": _EVERYWHERE | _NETWORK | {"close-connections": 1},
    "sqlite": _EVERYWHERE | {"lock": 4},
}
#: Faults that last, and for how many seconds.
LASTING: Final = {
    "stop": (0.2, 6.0),
    "freeze": (0.2, 7.0),
    "slow": (0.5, 4.0),
    "refuse": (0.2, 4.0),
    "lock": (0.1, 5.0),
}
#: Seconds between two restarts of the broker.
RESTARTS: Final = {"redis": (8.0, 40.0), "amqp": (50.0, 100.0)}
_PAUSE: Final = (0.4, 3.5)


class Event(NamedTuple):
    """Something to do, `at` seconds from the start."""

    at: float
    #: ``send``, or a fault's name.
    what: str
    #: For `send`: the tasks and their countdown in seconds (None: none).
    tasks: tuple[tuple[Sent, float | None], ...] = ()
    #: For a fault: the worker that it is for.
    worker: str = ""
    seconds: float = 0.0
    #: A number that decides between what can only be known when it comes.
    pick: float = 0.0


def draw(
    broker: str,
    seed: int,
    seconds: float,
    *,
    rate: float = 20.0,
    longest: float = 4.0,
    haste: float = 1.0,
    faulty: bool = True,
    restarts: bool = True,
) -> list[Event]:
    """Return the plan of a run of `seconds`, with `rate` tasks a second; without faults unless `faulty`.

    `longest`: seconds that a task sleeps at most. The countdown of one is at most a second more.
    `haste`: by how much faster than usual the faults follow each other.
    """
    # Tasks and faults are drawn apart: a fault more does not change the work.
    events = _work(random.Random(f"{seed}:work"), seed, seconds, rate, longest)
    if faulty:
        events += _faults(random.Random(f"{seed}:faults"), broker, seconds, haste)
        if restarts and broker in RESTARTS:
            events += _restarts(random.Random(f"{seed}:restarts"), broker, seconds, haste)
    return sorted(events, key=lambda event: event.at)


def _work(rng: random.Random, seed: int, seconds: float, rate: float, longest: float) -> list[Event]:
    events = []
    at, number = 0.0, 0
    while at < seconds:
        size = rng.randint(20, 80) if rng.random() < 0.05 else rng.randint(1, 5)
        tasks: list[tuple[Sent, float | None]] = []
        for _ in range(size):
            tasks.append(_task(rng, f"s{seed}-{number}", longest))
            number += 1
        events.append(Event(at, "send", tuple(tasks)))
        at += size / rate * rng.uniform(0.5, 1.5)
    return events


def _task(rng: random.Random, entry: str, longest: float) -> tuple[Sent, float | None]:
    point = rng.random()
    if point < 0.85:
        seconds = rng.uniform(0, 0.05)
    elif point < 0.97:
        seconds = rng.uniform(0.1, 0.6)
    else:
        seconds = rng.uniform(longest / 4, longest)
    task = Sent(
        entry,
        late=rng.random() < 0.6,
        seconds=round(seconds, 3),
        fails=rng.choice((1, 2, 3)) if rng.random() < 0.08 else 0,
        keeps_result=rng.random() < 0.4,
    )
    return task, round(rng.uniform(0.5, longest + 1), 2) if rng.random() < 0.08 else None


def _faults(rng: random.Random, broker: str, seconds: float, haste: float) -> list[Event]:
    weights = WEIGHTS[broker]
    events = []
    at = rng.uniform(*_PAUSE) / haste
    while at < seconds:
        what = rng.choices(list(weights), list(weights.values()))[0]
        worker = VICTIM if what == "kill" else rng.choice((STEADY, VICTIM))
        lasts = rng.uniform(*LASTING[what]) if what in LASTING else 0.0
        events.append(Event(at, what, worker=worker, seconds=round(lasts, 2), pick=rng.random()))
        at += rng.uniform(*_PAUSE) / haste
    return events


def _restarts(rng: random.Random, broker: str, seconds: float, haste: float) -> list[Event]:
    shortest, longest = RESTARTS[broker]
    events = []
    at = rng.uniform(shortest, longest) / 2 / haste
    while at < seconds:
        events.append(Event(at, "restart", pick=rng.random()))
        at += rng.uniform(shortest, longest) / haste
    return events


def describe(events: list[Event]) -> dict[str, Any]:
    """Return how many tasks and which faults a plan has."""
    faults: dict[str, int] = {}
    for event in events:
        if event.what != "send":
            faults[event.what] = faults.get(event.what, 0) + 1
    return {"tasks": sum(len(event.tasks) for event in events), "faults": faults}
