"""Tasks that are retried in every way; each start is noted as ``<entry> <id> <retries> <when>``."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from framework import App
from support import ledger

app = App("retried", broker=os.environ.get("TEST_BROKER_URL"), backend=os.environ.get("TEST_RESULT_URL"))
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))


def note(task: Any, entry: str) -> None:
    request = task.request
    ledger.append(os.environ["TEST_LEDGER"], f"{entry} {request.id} {request.retries} {time.monotonic()}")


@app.task(
    bind=True,
    name="retried.backoff",
    autoretry_for=(OSError,),
    dont_autoretry_for=(FileNotFoundError,),
    retry_backoff=1,
    retry_backoff_max=1.5,
    retry_jitter=False,
    max_retries=2,
)
def backoff(self: Any, entry: str, error: str) -> None:
    note(self, entry)
    raise {"os": OSError, "missing": FileNotFoundError, "value": ValueError}[error]("on purpose")


@app.task(bind=True, name="retried.jitter", autoretry_for=(OSError,), retry_backoff=True, retry_backoff_max=1)
def jitter(self: Any, entry: str) -> int:
    note(self, entry)
    if self.request.retries < 2:
        raise OSError("on purpose")
    return int(self.request.retries)


@app.task(
    bind=True,
    name="retried.kwargs",
    autoretry_for=(OSError,),
    retry_kwargs={"max_retries": 1, "countdown": 0},
    max_retries=9,
)
def kwargs(self: Any, entry: str) -> None:
    note(self, entry)
    raise OSError("on purpose")


@app.task(bind=True, name="retried.later", max_retries=5)
def later(self: Any, entry: str, times: int, countdown: float) -> int:
    """Ask for `times` retries, each after `countdown`."""
    note(self, entry)
    if self.request.retries < times:
        raise self.retry(countdown=countdown, exc=OSError("not yet"))
    return int(self.request.retries)


@app.task(bind=True, name="retried.once", max_retries=0)
def once(self: Any, entry: str) -> None:
    note(self, entry)
    raise self.retry(countdown=0)


@app.task(bind=True, name="retried.for_ever", max_retries=None)
def for_ever(self: Any, entry: str, times: int) -> int:
    note(self, entry)
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(bind=True, name="retried.dying", acks_late=True, ends={"worker_lost": "retry"}, default_retry_delay=0)
def dying(self: Any, entry: str) -> int:
    """Be retried because its process is gone."""
    note(self, entry)
    if not self.request.retries:
        os.abort()
    return int(self.request.delivery_info["priority"])
