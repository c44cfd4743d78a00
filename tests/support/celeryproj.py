"""The sample application for a real Celery worker or client: the same tasks as `proj`, by the same names.

`make_app` builds it for a client; the module's own `app`, for `-A celeryproj`, reads the environment: TEST_BROKER_URL,
TEST_RESULT_URL, TEST_CONF (a JSON object of settings) and TEST_LEDGER (where `record` and others write).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

from celery import Celery
from celery.backends.rpc import RPCBackend
from celery.result import AsyncResult
from redis.connection import AbstractConnection

from support import ledger
from support.wait import wait_for


def note(entry: object) -> None:
    """Write `entry` into the ledger that the environment names."""
    ledger.append(os.environ["TEST_LEDGER"], entry)


def make_app(broker: str | None = None, backend: str | None = None, **conf: Any) -> Celery:
    """Return an application with all sample tasks."""
    app = Celery("proj", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(conf)

    @app.task(shared=False, name="proj.add")
    def add(x, y):
        return x + y

    @app.task(shared=False, name="proj.xsum")
    def xsum(numbers):
        return sum(numbers)

    @app.task(shared=False, name="proj.echo")
    def echo(*args, **kwargs):
        return [list(args), kwargs]

    @app.task(shared=False, name="proj.noop", ignore_result=True)
    def noop(*args):
        pass

    @app.task(shared=False, name="proj.fail")
    def fail(text="broken"):
        raise ValueError(text)

    @app.task(shared=False, name="proj.retrying", bind=True, max_retries=5)
    def retrying(self, failures, countdown=0, most=None):
        """Fail `failures` times, then tell how often it was retried."""
        if self.request.retries < failures:
            error = ValueError(f"attempt {self.request.retries}")
            raise self.retry(countdown=countdown, exc=error, max_retries=most)
        return self.request.retries

    @app.task(shared=False, name="proj.record", ignore_result=True)
    def record(entry):
        note(entry)

    @app.task(shared=False, name="proj.record_late", ignore_result=True, acks_late=True)
    def record_late(entry):
        note(entry)

    @app.task(shared=False, name="proj.sleeptask")
    def sleeptask(seconds, entry=None):
        """Sleep; with `entry`, write `start:<entry>` before and `end:<entry>` after."""
        if entry is not None:
            note(f"start:{entry}")
        time.sleep(seconds)
        if entry is not None:
            note(f"end:{entry}")
        return seconds

    @app.task(shared=False, name="proj.hold")
    def hold(gate):
        """Run until the file `gate` exists."""
        while not os.path.exists(gate):
            time.sleep(0.01)
        return os.getpid()

    @app.task(shared=False, name="proj.outlive", bind=True, ignore_result=True, acks_late=True)
    def outlive(self, gate, entry):
        """Write ``<entry> <node> <redelivered?> <deliveries>``, and run until the file `gate` exists."""
        again = (self.request.delivery_info or {}).get("redelivered")
        note(f"{entry} {self.request.hostname} {bool(again)} {self.request.get('deliveries') or 0}")
        hold(gate)

    @app.task(shared=False, name="proj.limited", rate_limit="1000/s")
    def limited(value=None):
        return value

    @app.task(shared=False, name="proj.sleep_late", acks_late=True)
    def sleep_late(seconds, entry=None):
        return sleeptask(seconds, entry)

    @app.task(shared=False, name="proj.whoami", bind=True)
    def whoami(self):
        info = self.request.delivery_info or {}
        return {
            "pid": os.getpid(),
            "hostname": self.request.hostname,
            "retries": self.request.retries,
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
        }

    @app.task(shared=False, name="proj.oops", ignore_result=True)
    def oops(*args):
        """An errback: writes `oops:<id of the failed task>`."""
        note(f"oops:{getattr(args[0], 'id', args[0])}")

    @app.task(shared=False, name="proj.body", bind=True)
    def body(self, results, entry):
        """The body of a chord: writes `body:<entry>`."""
        note(f"body:{entry}")
        return results

    @app.task(shared=False, name="proj.swap", bind=True)
    def swap(self, numbers, how="group"):
        """Is replaced by a group, a chord, or a chain."""
        from celery import chord, group

        doubles = [add.s(number, number) for number in numbers]
        if how == "group":
            raise self.replace(group(doubles))
        if how == "chain of group":
            raise self.replace(doubles[0] | group(add.s(number) for number in numbers))
        raise self.replace(chord(doubles, xsum.s()) if how == "chord" else doubles[0] | add.s(1))

    @app.task(shared=False, name="proj.grow", bind=True)
    def grow(self, number):
        """Add one more task to the header that it runs in."""
        self.add_to_chord(add.s(number, number))
        return number

    return app


def outcome(result: Any, timeout: float) -> Any:
    """Return what `result.get` does, which is told late of what a worker sent: a chord's body, the end of a chain.

    Celery's client subscribes to that over one connection while it looks over another one whether it is there; what is
    stored between the two it does not hear of, once in a thousand times. So it is asked until it knows. Not of rpc://:
    there replies wait in a queue of the client's own, and asking takes them away.
    """
    if not isinstance(result.backend, RPCBackend):
        wait_for(result.ready, timeout, lambda: f"{result.id} to end")
    return result.get(timeout=timeout)


@contextlib.contextmanager
def closing(app: Celery) -> Iterator[Celery]:
    """Close `app` and the sockets that Celery leaves open, so that no later test fails on a warning."""
    try:
        yield app
    finally:
        app.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        for each in gc.get_objects():
            # A result that nobody has asked for says goodbye to its server when it goes: long after the server, then.
            if issubclass(type(each), AsyncResult) and each.app is app:
                each.backend = None
            # Celery keeps these for applications with the same broker; they connect again when one uses them.
            elif issubclass(type(each), AbstractConnection):
                each.disconnect()


app = make_app(
    os.environ.get("TEST_BROKER_URL"),
    os.environ.get("TEST_RESULT_URL"),
    **json.loads(os.environ.get("TEST_CONF", "{}")),
)
