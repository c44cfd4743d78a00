"""Tasks that end in every way there is, with everything that may follow: ``ended.<end>.<action>``.

Each notes that it starts, as ``<end>.<action>``, and is started once more at the most: by a retry or a delivery.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from typing import Any

from framework import App
from framework._boot.loader import make_transport
from framework.client.dead_letter_queue import DeadLetterQueue
from support import ledger, proj

DLQ = "celery.dlq"
ACTIONS = ("ack", "requeue", "retry", "dead-letter")
#: What a task of that end does, and the options that it wants.
HOW: dict[str, tuple[Any, dict[str, Any]]] = {}

app = App("ended", broker=os.environ.get("TEST_BROKER_URL"), backend=os.environ.get("TEST_RESULT_URL"))


def letters(url: str) -> Counter[str]:
    """Return what lies in the dead-letter queue: ``<task> <reason>``."""
    with (
        contextlib.closing(proj.make_app(url)) as app,
        contextlib.closing(make_transport(app.conf.settings)) as broker,
        DeadLetterQueue(broker, [DLQ]) as box,
    ):
        return Counter(f"{(each.task or '').removeprefix('ended.')} {each.reason}" for each in box.dead_letters)


def _end(name: str, **options: Any) -> Any:
    def register(function: Any) -> Any:
        HOW[name] = function, options
        return function

    return register


@_end("failure")
def fail() -> None:
    raise ValueError("on purpose")


@_end("soft_timeout", soft_time_limit=0.2)
def outlast() -> None:
    while True:
        time.sleep(0.01)


@_end("hard_timeout", time_limit=0.3)
def outstay() -> None:
    while True:
        time.sleep(0.01)


@_end("worker_lost")
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@_end("shutdown")
def go_on() -> None:
    while True:
        time.sleep(0.01)


def _add(end: str, action: str, *, late: bool) -> None:
    body, options = HOW[end]
    name = f"{'' if late else 'early.'}{end}.{action}"

    def task() -> None:
        ledger.append(os.environ["TEST_LEDGER"], name)
        body()

    app.task(
        name=f"ended.{name}",
        acks_late=late,
        ends={end: action},
        max_retries=1,
        default_retry_delay=0.5,
        max_deliveries=2,
        **options,
    )(task)


for _name in HOW:
    for _action in ACTIONS:
        _add(_name, _action, late=True)
        if _action != "requeue":
            _add(_name, _action, late=False)
