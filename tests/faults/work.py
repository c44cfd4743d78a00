"""The application of the workers under chaos: ``-A faults.work``, in the environment of `support.proj`.

1. Each run of a task writes ``start <entry> <attempt> <when> <worker> <pid>`` and ``end …`` into the ledger; `when` is
   in monotonic seconds, and the worker is named by TEST_WORKER.
2. `faults.late` and `faults.early` are functions; `faults.late_async` and `faults.early_async` are the same as
   coroutines, for the pool that runs these side by side.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from framework import App
from support.failpoints import Failpoints
from support.proj import note

#: Seconds between two attempts of a task that retries.
PAUSE = 0.2
#: How often the broker may hand a late-ack task out.
MAX_DELIVERIES = 5


def begin(task: Any, entry: str) -> None:
    """Write that a run of `task` has begun."""
    _write("start", task, entry)


def end(task: Any, entry: str, fails: int) -> str:
    """Write that it has ended, and retry it if this was one of its `fails` attempts that fail."""
    _write("end", task, entry)
    if task.request.retries < fails:
        raise task.retry(countdown=PAUSE)
    return entry


def _write(what: str, task: Any, entry: str) -> None:
    where = f"{os.environ.get('TEST_WORKER', '-')} {os.getpid()}"
    note(f"{what} {entry} {task.request.retries} {time.monotonic():.3f} {where}")


def make_app(broker: str | None = None, backend: str | None = None, *, coroutines: bool = False, **conf: Any) -> App:
    """Return an application with the tasks; `coroutines`: also those that are."""
    app = App("work", broker=broker, backend=backend)
    app.conf.update(conf)

    def work(self: Any, entry: str, seconds: float, fails: int) -> str:
        begin(self, entry)
        time.sleep(seconds)
        return end(self, entry, fails)

    async def work_async(self: Any, entry: str, seconds: float, fails: int) -> str:
        begin(self, entry)
        await asyncio.sleep(seconds)
        return end(self, entry, fails)

    functions = {"": work, "_async": work_async} if coroutines else {"": work}
    for suffix, function in functions.items():
        app.task(name=f"faults.early{suffix}", bind=True, max_retries=10)(function)
        app.task(
            name=f"faults.late{suffix}",
            bind=True,
            max_retries=10,
            acks_late=True,
            reject_on_worker_lost=True,
            max_deliveries=MAX_DELIVERIES,
        )(function)
    return app


app = make_app(
    os.environ.get("TEST_BROKER_URL"),
    os.environ.get("TEST_RESULT_URL"),
    coroutines="TEST_COROUTINES" in os.environ,
    **json.loads(os.environ.get("TEST_CONF", "{}")),
)
if (_failpoints := Failpoints.from_environment()) is not None:
    app.register_hooks(_failpoints)
