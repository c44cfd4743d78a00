"""The application of the workers under chaos: ``-A faults.work``, in the environment of `support.proj`.

Each run of a task writes ``start <entry> <attempt> <when> <worker> <pid>`` and ``end …`` into the ledger; `when` is in
monotonic seconds, and the worker is named by TEST_WORKER.
"""

from __future__ import annotations

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


def make_app(broker: str | None = None, backend: str | None = None, **conf: Any) -> App:
    """Return an application with the tasks."""
    app = App("work", broker=broker, backend=backend)
    app.conf.update(conf)

    def work(self: Any, entry: str, seconds: float, fails: int) -> str:
        attempt = self.request.retries
        where = f"{os.environ.get('TEST_WORKER', '-')} {os.getpid()}"
        note(f"start {entry} {attempt} {time.monotonic():.3f} {where}")
        time.sleep(seconds)
        note(f"end {entry} {attempt} {time.monotonic():.3f} {where}")
        if attempt < fails:
            raise self.retry(countdown=PAUSE)
        return entry

    app.task(name="faults.early", bind=True, max_retries=10)(work)
    app.task(
        name="faults.late",
        bind=True,
        max_retries=10,
        acks_late=True,
        reject_on_worker_lost=True,
        max_deliveries=MAX_DELIVERIES,
    )(work)
    return app


app = make_app(
    os.environ.get("TEST_BROKER_URL"),
    os.environ.get("TEST_RESULT_URL"),
    **json.loads(os.environ.get("TEST_CONF", "{}")),
)
if (_failpoints := Failpoints.from_environment()) is not None:
    app.register_hooks(_failpoints)
