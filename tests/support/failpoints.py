"""Failpoints: named places on a task's way at which a worker does itself harm, with a probability each.

1. TEST_FAILPOINTS says which: ``fetch.after=kill:0.01,store.before=lose:0.02``; TEST_FAILPOINTS_SEED chooses the
   chances.
2. `Failpoints` is a hook plugin: before the worker's first step it wraps the methods of `PLACES` that are named, and
   no others. The core has nothing of it, and a worker without the plugin pays nothing.
3. `ACTIONS`: die at once, lose the connection, come late, and two that break a transport, for tests of whoever is
   to notice.
"""

from __future__ import annotations

import functools
import importlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from framework.api.hook import hookimpl
from framework.exceptions import ConnectionLost

_TRANSPORTS: Final = ("redis", "amqp", "sqlite")
_STORES: Final = ("redis:RedisStore", "sqlite:SqliteStore", "rpc:RpcStore")


def _consumers() -> tuple[str, ...]:
    return tuple(f"framework_transports.{name}.consumer:{name.capitalize()}Consumer" for name in _TRANSPORTS)


#: Where, by name: classes, and the method that is done there.
PLACES: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    # The broker lends messages, and is sent settlements.
    "fetch": (_consumers(), "fetch"),
    "flush": (_consumers(), "flush"),
    # Leases are renewed.
    "heartbeat": (_consumers(), "heartbeat"),
    # A new connection takes over what the lost one had on loan.
    "adopt": (_consumers(), "adopt"),
    # It is decided what becomes of what was fetched.
    "dispatch": (("framework.worker.dispatch.dispatch:Dispatch",), "take"),
    # Tasks have begun; early acks are noted.
    "started": (("framework.worker.settle.settle:Settle",), "started"),
    # They have ended; late acks are noted.
    "finished": (("framework.worker.settle.settle:Settle",), "finished"),
    "store": (tuple(f"framework_results.{name}" for name in _STORES), "store"),
}


class Failpoint(NamedTuple):
    """One item of TEST_FAILPOINTS."""

    place: str
    #: Whether it strikes before the place's method, or when that has returned.
    before: bool
    action: str
    probability: float


def parse(text: str) -> list[Failpoint]:
    """Read TEST_FAILPOINTS. Raises `ValueError`, in words, for what is not understood."""
    points = []
    for item in filter(None, text.split(",")):
        name, _, what = item.partition("=")
        place, _, when = name.partition(".")
        action, _, probability = what.partition(":")
        if place not in PLACES or when not in ("before", "after") or action not in ACTIONS:
            raise ValueError(
                f"{item!r} is no failpoint: <place>.<before|after>=<action>:<probability>, "
                f"places {', '.join(PLACES)}, actions {', '.join(ACTIONS)}"
            )
        if action in _SPOILING and (place, when) != ("fetch", "after"):
            raise ValueError(f"{item!r}: {action} is for what was fetched, so for fetch.after only")
        points.append(Failpoint(place, when == "before", action, float(probability or 1)))
    return points


class Failpoints:
    """The plugin: give it to `App.register_hooks`."""

    def __init__(self, text: str, seed: object = 0) -> None:
        self._points = parse(text)
        self._seed = seed

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Failpoints | None:
        """Return the failpoints that the environment asks for, None if it does not."""
        text = environ.get("TEST_FAILPOINTS")
        return cls(text, environ.get("TEST_FAILPOINTS_SEED", "0")) if text else None

    @hookimpl
    def worker_init(self) -> None:
        for number, point in enumerate(self._points):
            kinds, method = PLACES[point.place]
            rng = random.Random(f"{self._seed}:{number}:{point}")
            for path in kinds:
                module, _, name = path.partition(":")
                kind = getattr(importlib.import_module(module), name)
                setattr(kind, method, _wrapped(getattr(kind, method), point, rng))


def _wrapped(inner: Callable[..., Any], point: Failpoint, rng: random.Random) -> Callable[..., Any]:
    act = ACTIONS[point.action]

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        if point.before and rng.random() < point.probability:
            act(None, rng)
        done = inner(*args, **kwargs)
        if point.action in _SPOILING:
            return _SPOILING[point.action](done, rng, point.probability) if done else done
        # A method that found nothing to do is no point of anything's way.
        if not point.before and done != [] and rng.random() < point.probability:
            act(done, rng)
        return done

    return outer


def _kill(_done: Any, _rng: random.Random) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _lose(_done: Any, _rng: random.Random) -> None:
    raise ConnectionLost("a failpoint says so")


def _dawdle(_done: Any, rng: random.Random) -> None:
    time.sleep(rng.uniform(0, 0.2))


def _spoils(_done: Any, _rng: random.Random) -> None:
    raise AssertionError("spoils what was fetched, see _SPOILING")


def _drop(deliveries: Any, rng: random.Random, probability: float) -> list[Any]:
    kept = []
    for delivery in deliveries:
        if rng.random() < probability:
            delivery.ack()
        else:
            kept.append(delivery)
    return kept


def _double(deliveries: Any, rng: random.Random, probability: float) -> list[Any]:
    return [each for delivery in deliveries for each in (delivery,) * (2 if rng.random() < probability else 1)]


#: Break a transport: some deliveries never arrive, or arrive twice.
_SPOILING: Final[Mapping[str, Callable[..., list[Any]]]] = {"drop": _drop, "double": _double}
ACTIONS: Final[Mapping[str, Callable[..., None]]] = {
    "kill": _kill,
    "lose": _lose,
    "dawdle": _dawdle,
    "drop": _spoils,
    "double": _spoils,
}
