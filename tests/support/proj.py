"""The sample application of the tests; `celeryproj` is its Celery twin, with the same task names.

`make_app` builds it for a client; the module's own `app`, for `-A proj`, reads the environment: TEST_BROKER_URL,
TEST_RESULT_URL, TEST_CONF (a JSON object of settings) and TEST_LEDGER (where `record` and others write).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import time
from contextvars import ContextVar
from typing import Any

from framework import App
from framework.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from support import ledger


def note(entry: object) -> None:
    """Write `entry` into the ledger that the environment names."""
    ledger.append(os.environ["TEST_LEDGER"], entry)


def make_app(broker: str | None = None, backend: str | None = None, **conf: Any) -> App:
    """Return an application with all sample tasks."""
    app = App("proj", broker=broker, backend=backend)
    app.conf.update(conf)

    @app.task(name="proj.add")
    def add(x, y):
        return x + y

    @app.task(name="proj.xsum")
    def xsum(numbers):
        return sum(numbers)

    @app.task(name="proj.echo")
    def echo(*args, **kwargs):
        return [list(args), kwargs]

    @app.task(name="proj.noop", ignore_result=True)
    def noop(*args):
        pass

    @app.task(name="proj.fail")
    def fail(text="broken"):
        raise ValueError(text)

    @app.task(name="proj.retrying", bind=True, max_retries=5)
    def retrying(self, failures, countdown=0, most=None):
        """Fail `failures` times, then tell how often it was retried."""
        if self.request.retries < failures:
            error = ValueError(f"attempt {self.request.retries}")
            raise self.retry(countdown=countdown, exc=error, max_retries=most)
        return self.request.retries

    @app.task(name="proj.record", ignore_result=True)
    def record(entry):
        note(entry)

    @app.task(name="proj.stamp", bind=True, ignore_result=True)
    def stamp(self, entry):
        """Write ``<entry> <node> <when>``."""
        note(f"{entry} {self.request.hostname} {time.monotonic()}")

    @app.task(name="proj.stamp_at_last", bind=True, ignore_result=True)
    def stamp_at_last(self, entry, failures):
        """Write ``<entry>#<attempt> <node>`` for each of `failures` retries, then ``<entry> <node>``."""
        if self.request.retries < failures:
            note(f"{entry}#{self.request.retries} {self.request.hostname}")
            raise self.retry(countdown=0)
        note(f"{entry} {self.request.hostname}")

    @app.task(name="proj.record_late", ignore_result=True, acks_late=True)
    def record_late(entry):
        note(entry)

    @app.task(name="proj.sleeptask")
    def sleeptask(seconds, entry=None):
        """Sleep; with `entry`, write `start:<entry>` before and `end:<entry>` after."""
        if entry is not None:
            note(f"start:{entry}")
        time.sleep(seconds)
        if entry is not None:
            note(f"end:{entry}")
        return seconds

    @app.task(name="proj.hold")
    def hold(gate):
        """Run until the file `gate` exists."""
        while not os.path.exists(gate):
            time.sleep(0.01)
        return os.getpid()

    @app.task(name="proj.hold_late", ignore_result=True, acks_late=True)
    def hold_late(gate, entry):
        """Write `start:<entry>`, run until the file `gate` exists, write `end:<entry>`."""
        note(f"start:{entry}")
        hold(gate)
        note(f"end:{entry}")

    @app.task(name="proj.hold_and_retry", bind=True)
    def hold_and_retry(self, gate, entry):
        """Run until the file `gate` exists, be retried at once, and write `again:<entry>`."""
        hold(gate)
        if not self.request.retries:
            raise self.retry(countdown=0)
        note(f"again:{entry}")
        return self.request.retries

    app.task(name="proj.hold_and_retry_late", bind=True, acks_late=True)(hold_and_retry.__wrapped__)

    @app.task(name="proj.hold_and_fail")
    def hold_and_fail(gate):
        hold(gate)
        raise ValueError("as asked")

    @app.task(name="proj.hold_early", ignore_result=True)
    def hold_early(gate, entry):
        return hold_late(gate, entry)

    @app.task(name="proj.clutch_late", ignore_result=True, acks_late=True)
    def clutch_late(gate, entry):
        """As `hold_late`; what holds the first run is a call in C that keeps the interpreter, see the test."""
        note(f"start:{entry}")
        if os.path.exists(gate):
            taken = f"{gate}.taken"
            os.rename(gate, taken)
            library = ctypes.PyDLL(None)
            while library.open(taken.encode(), os.O_RDONLY) < 0:
                pass  # a signal has woken it
        note(f"end:{entry}")

    @app.task(name="proj.spin_late", ignore_result=True, acks_late=True)
    def spin_late(seconds, entry):
        """As `sleep_late`, but without a moment in which it does not want the interpreter."""
        note(f"start:{entry}")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        note(f"end:{entry}")

    @app.task(name="proj.outlive", bind=True, ignore_result=True, acks_late=True)
    def outlive(self, gate, entry):
        """Write ``<entry> <node> <redelivered?> <deliveries>``, and run until the file `gate` exists."""
        again = (self.request.delivery_info or {}).get("redelivered")
        note(f"{entry} {self.request.hostname} {bool(again)} {self.request.get('deliveries') or 0}")
        hold(gate)

    @app.task(name="proj.limited", rate_limit="1000/s")
    def limited(value=None):
        return value

    @app.task(name="proj.sleep_late", acks_late=True)
    def sleep_late(seconds, entry=None):
        return sleeptask(seconds, entry)

    @app.task(name="proj.whoami", bind=True)
    def whoami(self):
        info = self.request.delivery_info or {}
        return {
            "pid": os.getpid(),
            "hostname": self.request.hostname,
            "retries": self.request.retries,
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
        }

    @app.task(name="proj.oops", ignore_result=True)
    def oops(*args):
        """An errback: writes `oops:<id of the failed task>`."""
        note(f"oops:{getattr(args[0], 'id', args[0])}")

    @app.task(name="proj.touch")
    def touch(path):
        """Make a file, which shows that it runs."""
        open(path, "w").close()
        return 0

    @app.task(name="proj.labelled_oops", ignore_result=True)
    def labelled_oops(task_id, label):
        """An errback with an argument of its own: writes `<label>:<id of the failed task>`."""
        note(f"{label}:{task_id}")

    @app.task(name="proj.stubborn_oops", bind=True, ignore_result=True, max_retries=1, default_retry_delay=0)
    def stubborn_oops(self, *args):
        """An errback that is retried once: writes `<number of the try>:<id of the failed task>` each time."""
        note(f"{self.request.retries}:{args[0]}")
        if not self.request.retries:
            raise self.retry()

    @app.task(name="proj.reject")
    def reject():
        raise Reject("unwanted")

    @app.task(name="proj.secret", send_events=False)
    def secret():
        pass

    @app.task(name="proj.asleep")
    async def asleep(seconds, entry=None):
        """Sleep without a thread; tell whether the context was this task's own."""
        fresh = MINE.get() is None
        MINE.set(entry)
        await asyncio.sleep(seconds)
        if entry is not None:
            note(entry)
        return fresh and MINE.get() == entry

    @app.task(name="proj.ahold")
    async def ahold(gate):
        """Run until the file `gate` exists."""
        while not os.path.exists(gate):
            await asyncio.sleep(0.01)
        return os.getpid()

    @app.task(name="proj.ahold_and_retry", bind=True)
    async def ahold_and_retry(self, gate, entry):
        await ahold.__wrapped__(gate)
        if not self.request.retries:
            raise self.retry(countdown=0)
        note(f"again:{entry}")
        return self.request.retries

    app.task(name="proj.ahold_and_retry_late", bind=True, acks_late=True)(ahold_and_retry.__wrapped__)

    @app.task(name="proj.ahold_and_fail")
    async def ahold_and_fail(gate):
        await ahold.__wrapped__(gate)
        raise ValueError("as asked")

    @app.task(name="proj.arecord", ignore_result=True)
    async def arecord(entry):
        note(entry)

    @app.task(name="proj.asoft", bind=True)
    async def asoft(self, seconds):
        request_id = self.request.id
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(seconds))
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            return ["cleaned up", self.request.id == request_id]

    @app.task(name="proj.aend", bind=True, max_retries=3)
    async def aend(self, how):
        await asyncio.sleep(0)
        if how == "retry" and self.request.retries < 2:
            raise self.retry(countdown=0)
        if how == "ignore":
            raise Ignore
        if how == "reject":
            raise Reject("unwanted")
        if how == "fail":
            raise ValueError("as asked")
        if how == "cancel":
            raise asyncio.CancelledError
        if how == "exit":
            raise SystemExit(3)
        return self.request.retries

    @app.task(name="proj.aauto", autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0, bind=True)
    async def aauto(self):
        if not self.request.retries:
            raise KeyError("first")
        return self.request.retries

    @app.task(name="proj.body", bind=True)
    def body(self, results, entry):
        """The body of a chord: writes `body:<entry>`."""
        note(f"body:{entry}")
        return results

    @app.task(name="proj.swap", bind=True)
    def swap(self, numbers, how="group"):
        """Is replaced by a group, a chord, or a chain."""
        from framework import chord, group

        doubles = [add.s(number, number) for number in numbers]
        if how == "group":
            raise self.replace(group(doubles))
        if how == "chain of group":
            raise self.replace(doubles[0] | group(add.s(number) for number in numbers))
        raise self.replace(chord(doubles, xsum.s()) if how == "chord" else doubles[0] | add.s(1))

    @app.task(name="proj.grow", bind=True)
    def grow(self, number):
        """Add one more task to the header that it runs in."""
        self.add_to_chord(add.s(number, number))
        return number

    return app


MINE: ContextVar[object] = ContextVar("mine", default=None)
app = make_app(
    os.environ.get("TEST_BROKER_URL"),
    os.environ.get("TEST_RESULT_URL"),
    **json.loads(os.environ.get("TEST_CONF", "{}")),
)
