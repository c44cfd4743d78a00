"""Tasks whose base classes time the call: two levels of `__call__`, each of which calls that of its base."""

from __future__ import annotations

import json
import os
from typing import Any

from framework import App, Task
from framework.exceptions import Retry
from support import ledger

app = App("timed", broker=os.environ.get("TEST_BROKER_URL"), backend=os.environ.get("TEST_RESULT_URL"))
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))


class Timed(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(f"{args[0]} outer {self.request.id} {self.request.retries}")
        return super().__call__(*args, **kwargs)


class Counted(Timed):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(f"{args[0]} inner {self.request.id} {self.request.retries}")
        return super().__call__(*args, **kwargs)


def note(entry: str) -> None:
    ledger.append(os.environ["TEST_LEDGER"], entry)


@app.task(name="timed.plain")
def plain(entry: str) -> str:
    return entry


@app.task(base=Counted, bind=True, name="timed.states")
def states(self: Any, entry: str) -> list[Any]:
    self.update_state(state="PROGRESS", meta={"done": 1})
    return [self.request.id, self.request.called_directly, app.AsyncResult(self.request.id).state]


@app.task(base=Counted, bind=True, name="timed.retried", max_retries=3)
def retried(self: Any, entry: str) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(base=Counted, bind=True, name="timed.auto", autoretry_for=(OSError,), default_retry_delay=0)
def auto(self: Any, entry: str) -> int:
    if not self.request.retries:
        raise OSError("on purpose")
    return int(self.request.retries)


@app.task(base=Counted, bind=True, name="timed.replaced")
def replaced(self: Any, entry: str) -> None:
    raise self.replace(plain.si(f"{entry} replaced"))


@app.task(base=Counted, bind=True, name="timed.grown")
def grown(self: Any, entry: str) -> str:
    self.add_to_chord(plain.si(f"{entry} added"))
    return entry


@app.task(base=Counted, bind=True, name="timed.nested")
def nested(self: Any, entry: str, deep: bool = False) -> list[Any]:
    """Call itself as a function, which is no call by message."""
    own = [self.request.id, self.request.called_directly]
    return own if deep else [own, self(entry, deep=True), [self.request.id, self.request.called_directly]]


@app.task(base=Counted, bind=True, name="timed.coroutine", max_retries=1)
async def coroutine(self: Any, entry: str) -> list[Any]:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return [self.request.id, self.request.retries]


@app.task(name="timed.by_hand")
def by_hand(entry: str) -> None:
    raise Retry("later")


@app.task(name="timed.of_another")
def of_another(entry: str) -> Any:
    return retried(entry)
