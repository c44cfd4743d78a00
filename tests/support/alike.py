"""Tasks that behave alike under Celery's worker and ours, to compare what both make of one program.

The variable TEST_LIBRARY says whose application `app` is, ``framework`` or ``celery``; the others are those of
`celeryproj`. `PROGRAMS` are what the tests run, on a worker of each kind; every call in one has arguments of its own,
so that results can be told apart without their ids.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from support import ledger


def note(*entry: Any) -> None:
    ledger.append(os.environ["TEST_LEDGER"], json.dumps(entry))


def make(broker: str | None, backend: str | None, library: str, **conf: Any) -> Any:
    """Return an application of `library` with all tasks."""
    if library == "celery":
        from celery import Celery as App
        from celery import Task, group
        from celery.exceptions import Ignore, Reject
    else:
        from framework import App, Task, group  # type: ignore[assignment]
        from framework.exceptions import Ignore, Reject  # type: ignore[assignment]

    app = App("alike", broker=broker, backend=backend, set_as_current=False)
    app.conf.update({"result_extended": True, **conf})

    @app.task(name="alike.add")
    def add(x, y):
        return x + y

    @app.task(name="alike.total")
    def total(numbers):
        return sum(numbers)

    @app.task(name="alike.fail")
    def fail(text):
        raise ValueError(text)

    @app.task(name="alike.tracked", track_started=True, bind=True)
    def tracked(self, gate):
        while not os.path.exists(gate):
            time.sleep(0.01)

    @app.task(name="alike.progress", bind=True)
    def progress(self, gate):
        """Tell how far it is, and end when `gate` is there."""
        self.update_state(state="PROGRESS", meta={"done": 1})
        while not os.path.exists(gate):
            time.sleep(0.01)
        return "end"

    @app.task(name="alike.told")
    def told(task_id):
        """An error callback of the old kind."""

    @app.task(name="alike.again", bind=True)
    def again(self, times):
        if self.request.retries < times:
            raise self.retry(countdown=0)

    @app.task(name="alike.spawn", bind=True)
    def spawn(self):
        """Send a task, a chain, a group and a chord."""
        from importlib import import_module

        canvas = import_module(library)
        add.delay(11, 1)
        (add.s(12, 1) | add.s(2)).delay()
        group(add.s(13, 1), add.s(14, 1)).delay()
        canvas.chord([add.s(15, 1), add.s(16, 1)], total.s()).delay()

    @app.task(name="alike.quiet", bind=True, trail=False)
    def quiet(self):
        add.delay(21, 1)

    @app.task(name="alike.swap", bind=True)
    def swap(self):
        raise self.replace(add.s(1, 1) | group(add.s(31), add.s(32)))

    class Handled(Task):
        """Notes what its handlers are told."""

        abstract = True

        def before_start(self, task_id, args, kwargs):
            note("before_start", list(args), kwargs)

        def on_success(self, retval, task_id, args, kwargs):
            note("on_success", retval, list(args), kwargs)

        def on_retry(self, exc, task_id, args, kwargs, einfo):
            note("on_retry", repr(exc), list(args), kwargs, "Traceback" in str(einfo))

        def on_failure(self, exc, task_id, args, kwargs, einfo):
            known = (isinstance(einfo.exception, Exception), einfo.type is type(exc), bool(einfo.tb))
            text = ("Traceback" in str(einfo), einfo.traceback == str(einfo))
            note("on_failure", repr(exc), list(args), kwargs, *known, *text)

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            note("after_return", status, repr(retval), list(args), kwargs)

    @app.task(name="alike.handled", base=Handled, bind=True, max_retries=1)
    def handled(self, how, k=0):
        if how == "fail":
            raise ValueError("broken")
        if how == "retry":
            raise self.retry(countdown=0, exc=ValueError("again"))
        if how == "ignore":
            raise Ignore
        if how == "reject":
            raise Reject("no")
        if how == "replace":
            raise self.replace(add.s(41, 1))
        return how

    return app


#: A canvas (`framework` or `celery`) and tasks by name to a workflow.
Make = Callable[[Any, Callable[[str], Any]], Any]


def _linked(signature: Any, *links: Any) -> Any:
    for link in links:
        signature.link(link)
    return signature


def _stamped(signature: Any) -> Any:
    signature.stamp(customer="c-7")
    return signature


PROGRAMS: dict[str, Make] = {
    "task": lambda c, t: t("add").s(1, 2),
    "keyword arguments": lambda c, t: t("add").s(x=1, y=2),
    "failure": lambda c, t: t("fail").s("broken"),
    "retries": lambda c, t: t("again").s(2),
    "chain": lambda c, t: c.chain(t("add").s(1, 2), t("add").s(3), t("add").s(4)),
    "callbacks": lambda c, t: _linked(t("add").s(1, 2), t("add").s(5), t("add").s(6)),
    "callback": lambda c, t: _linked(t("add").s(1, 2), t("add").s(5)),
    "callback that is a chain": lambda c, t: _linked(t("add").s(1, 2), t("add").s(5) | t("add").s(6)),
    "callback that is a chord": lambda c, t: _linked(
        t("add").s(1, 2), c.chord([t("add").s(5), t("add").s(6)], t("total").s())
    ),
    "error callback": lambda c, t: t("fail").s("broken").on_error(t("told").s()),
    "group": lambda c, t: c.group(t("add").s(1, 1), t("add").s(2, 2)),
    "group of groups": lambda c, t: c.group(c.group(t("add").s(1, 1), t("add").s(2, 2)), t("add").s(3, 3)),
    "chord": lambda c, t: c.chord([t("add").s(1, 1), t("add").s(2, 2)], t("total").s()),
    "chord in a chain": lambda c, t: t("add").s(1, 1) | c.group(t("add").s(5), t("add").s(6)) | t("total").s(),
    "chord whose body is a chain": lambda c, t: c.chord([t("add").s(1, 1)], t("total").s() | t("add").s(3)),
    "sent by a task": lambda c, t: t("spawn").s(),
    "sent by a task without a trail": lambda c, t: t("quiet").s(),
    "replaced": lambda c, t: t("swap").s(),
    "stamped": lambda c, t: _stamped(t("add").s(1, 2) | t("add").s(3)),
}

if "TEST_LIBRARY" in os.environ:
    app = make(
        os.environ.get("TEST_BROKER_URL"),
        os.environ.get("TEST_RESULT_URL"),
        os.environ["TEST_LIBRARY"],
        **json.loads(os.environ.get("TEST_CONF", "{}")),
    )
