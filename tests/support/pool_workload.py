"""A workload for tests of pools: the payload says what to do.

1. `factory` is what a recipe names; `broken` raises as a broken application does.
2. A payload is a list of steps joined by ``;``, each ``<verb>:<value>``, one `do_<verb>` below for each: note (into the
   ledger), sleep, spin (in Python code), stubborn (swallows everything), soft (catches the soft limit), die, exit, ….
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from framework.api.pool import FAILURE, SUCCESS, Job, Outcome
from framework.exceptions import SoftTimeLimitExceeded
from support import ledger

HOARD: list[bytearray] = []


class SampleWorkload:
    """Runs the little language of this module."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.ledger = str(recipe.get("ledger", ""))
        self.coroutines = bool(recipe.get("coroutines"))
        self.stamp = str(recipe.get("stamp", ""))
        self.fails_to_prepare = bool(recipe.get("fails_to_prepare"))

    def prepare(self) -> None:
        if self.fails_to_prepare:
            raise SystemExit(3)

    def release(self) -> None:
        pass

    def run(self, job: Job) -> Outcome:
        began = time.monotonic()
        if job.payload == b"noop":
            return Outcome(job.seq, SUCCESS, time.monotonic() - began)
        note = ""
        document = None
        try:
            for step in bytes(job.payload).decode().split(";"):  # type: ignore[arg-type]
                verb, _, value = step.partition(":")
                answer = getattr(self, f"do_{verb}")(value)
                if verb == "big":
                    document = answer
                elif answer is not None:
                    note = answer
        except Exception as error:  # noqa: BLE001 - whatever a job raises is its outcome
            return Outcome(job.seq, FAILURE, time.monotonic() - began, None, repr(error))
        return Outcome(job.seq, SUCCESS, time.monotonic() - began, document, note)

    def runs_async(self, _task: str) -> bool:
        return self.coroutines

    def interrupt(self, _thread: int, _exception: type[BaseException], _frame: Any = None) -> bool:
        return False

    async def arun(self, job: Job, call: Any) -> Outcome:
        began = time.monotonic()
        try:
            note, document = await call.drive(self._asteps(job))
        except Exception as error:  # noqa: BLE001 - whatever a job raises is its outcome
            return Outcome(job.seq, FAILURE, time.monotonic() - began, None, repr(error))
        return Outcome(job.seq, SUCCESS, time.monotonic() - began, document, note)

    async def _asteps(self, job: Job) -> tuple[str, bytes | None]:
        note, document = "", None
        for step in bytes(job.payload).decode().split(";"):  # type: ignore[arg-type]
            verb, _, value = step.partition(":")
            if verb in ("sleep", "spin"):
                await asyncio.sleep(float(value))
            elif verb == "soft":
                try:
                    await asyncio.sleep(float(value))
                    note = "not interrupted"
                except SoftTimeLimitExceeded:
                    note = "cleaned up"
            elif verb == "stubborn":
                end = time.monotonic() + float(value)
                while time.monotonic() < end:
                    with contextlib.suppress(BaseException):
                        await asyncio.sleep(end - time.monotonic())
            elif verb == "big":
                document = self.do_big(value)
            else:
                note = getattr(self, f"do_{verb}")(value) or note
        return note, document

    def do_noop(self, _value: str) -> None:
        pass

    def do_note(self, value: str) -> None:
        ledger.append(self.ledger, value)

    def do_sleep(self, value: str) -> None:
        time.sleep(float(value))

    def do_spin(self, value: str) -> None:
        end = time.monotonic() + float(value)
        while time.monotonic() < end:
            time.sleep(0.001)

    def do_stubborn(self, value: str) -> None:
        end = time.monotonic() + float(value)
        while time.monotonic() < end:
            with contextlib.suppress(BaseException):
                while time.monotonic() < end:
                    time.sleep(0.001)

    def do_swallow(self, value: str) -> None:
        with contextlib.suppress(BaseException):
            time.sleep(float(value))

    def do_soft(self, value: str) -> str:
        try:
            self.do_spin(value)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "not interrupted"

    def do_seize(self, _value: str) -> None:
        """Wait in C for ever, with the interpreter's lock."""
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.PyDLL(None).pthread_mutex_lock(mutex)

    def do_haunt(self, value: str) -> None:
        """Leave a thread behind that seizes the interpreter's lock when the job has ended, and notes it before."""

        def haunt() -> None:
            self.do_note("haunted")
            self.do_seize(value)

        threading.Timer(0.1, haunt).start()

    def do_die(self, value: str) -> None:
        os.kill(os.getpid(), int(value))
        time.sleep(30)

    def do_exit(self, value: str) -> None:
        os._exit(int(value))

    def do_big(self, value: str) -> bytes:
        return b"x" * int(value)

    def do_grab(self, value: str) -> None:
        HOARD.append(bytearray(os.urandom(1024) * int(value) * 1024))

    def do_descriptors(self, _value: str) -> str:
        """Return the descriptors that a process has which this one starts and hands everything that it may."""
        script = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))"
        process = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, close_fds=False, check=True)
        return process.stdout.decode()

    def do_spawn(self, value: str) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        with open(value, "w") as file:
            file.write(str(process.pid))
        time.sleep(60)

    def do_raise(self, _value: str) -> None:
        raise ValueError("as asked")

    def do_module(self, value: str) -> str:
        """Return WORD of the module `value`, if this process has imported it."""
        module = sys.modules.get(value)
        return "absent" if module is None else str(module.WORD)

    def do_pid(self, _value: str) -> str:
        return str(os.getpid())

    def do_stamp(self, _value: str) -> str:
        with open(self.stamp) as file:
            return file.read()

    def do_where(self, _value: str) -> str:
        from multiprocessing import current_process

        index = os.environ.get("FRAMEWORK_PROCESS_INDEX", "")
        return f"{current_process().name} {index} {threading.current_thread().name}"


def factory(recipe: Mapping[str, Any]) -> SampleWorkload:
    return SampleWorkload(recipe)


def broken(recipe: Mapping[str, Any]) -> SampleWorkload:
    raise ImportError("no module named 'missing_thing'")
