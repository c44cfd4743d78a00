"""The workload that a pool runs in its tests: jobs that execute the steps in their payload.

A payload is a list of steps joined by ``;``, each ``<verb>:<value>``; every verb is a method ``do_<verb>`` of
`SampleWorkload`, or ``ado_<verb>`` for a coroutine that needs different code. A verb that returns a string sets the
outcome's note, bytes its document, a number its code. A payload that is not such a list ends as INVALID, with its
digest as the note.

A recipe names `factory`. Keys of the recipe: ``ledger`` (path of the file that ``note`` writes to), ``coroutines``
(jobs are coroutines), ``module`` (a module whose ``VALUE`` is read when the workload is created), ``set_up`` (a file:
`prepare` writes "set up" into the ledger and waits until the file exists).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from framework.api.pool import FAILURE, INVALID, SUCCESS, Job, Outcome
from framework.exceptions import SoftTimeLimitExceeded
from framework.testing import ledger
from framework.testing.locks import LOCKS
from framework.worker.process.logs import pass_on_limits

if TYPE_CHECKING:
    from framework.api.coroutine import Call
    from framework.message import Payload

#: Seconds after which a job that waits for an event fails.
GIVE_UP: Final = 30.0
#: The signals that a job takes from its pool.
TAKEN: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG, signal.SIGALRM)
#: Seconds between two checks of the event that a job waits for.
_STEP: Final = 0.001

Steps = list[tuple[str, str]]


def digest(payload: Payload) -> str:
    """Return the note for a job whose payload is not a list of steps: a digest of the payload."""
    return hashlib.sha256(repr(payload).encode()).hexdigest()


class SampleWorkload:
    """Executes payloads in the language of this module."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.ledger = str(recipe.get("ledger", ""))
        self.coroutines = bool(recipe.get("coroutines"))
        module = recipe.get("module")
        self.set_up = str(recipe.get("set_up", ""))
        self.value = str(importlib.import_module(module).VALUE) if module else ""
        #: What a job does not fail with: the harness adds the pool's `interrupts`, and ends a lost main thread itself.
        self.interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)

    def prepare(self) -> None:
        """Pass on limits in log handlers as a worker does, and wait for the recipe's ``set_up``."""
        pass_on_limits()
        if self.set_up:
            self.do_note("set up")
            self.do_await(self.set_up)

    def release(self) -> None:
        """Do nothing: this workload holds no resources."""

    # ------------------------------------------------------------ running

    def run(self, job: Job) -> Outcome:
        """Run the steps of `job` one after another."""
        began = time.monotonic()
        steps = self._read(job.payload)
        if steps is None:
            return Outcome(job.seq, INVALID, time.monotonic() - began, None, digest(job.payload))
        answers = []
        try:
            for verb, value in steps:
                answers.append(getattr(self, f"do_{verb}")(value))
        except BaseException as error:  # an error in a job is its outcome
            if isinstance(error, self.interrupts):
                raise
            return Outcome(job.seq, FAILURE, time.monotonic() - began, None, repr(error))
        return _outcome(job.seq, began, answers)

    def runs_async(self, _task: str) -> bool:
        """Return whether jobs are coroutines: all or none."""
        return self.coroutines

    async def arun(self, job: Job, call: Call) -> Outcome:
        """Run the steps of `job` in a coroutine."""
        began = time.monotonic()
        steps = self._read(job.payload)
        if steps is None:
            return Outcome(job.seq, INVALID, time.monotonic() - began, None, digest(job.payload))
        try:
            answers = await call.drive(self._asteps(steps))
        except Exception as error:  # noqa: BLE001 - an error in a job is its outcome
            return Outcome(job.seq, FAILURE, time.monotonic() - began, None, repr(error))
        return _outcome(job.seq, began, answers)

    def task_frame(self, frame: FrameType) -> FrameType | None:
        """Return the frame of the verb that has called the code of `frame`."""
        while (caller := frame.f_back) is not None:
            if caller.f_code is SampleWorkload.run.__code__:
                return frame if frame.f_code.co_name.startswith("do_") else None
            frame = caller
        return None

    def interrupt(self, _thread: int, _exception: type[BaseException], _frame: Any = None) -> bool:
        """Return False: `run` runs no coroutines."""
        return False

    async def _asteps(self, steps: Steps) -> list[object]:
        answers: list[object] = []
        for verb, value in steps:
            coroutine = getattr(self, f"ado_{verb}", None)
            answers.append(await coroutine(value) if coroutine else getattr(self, f"do_{verb}")(value))
        return answers

    def _read(self, payload: Payload) -> Steps | None:
        if not isinstance(payload, bytes):
            return None
        try:
            pairs = [step.partition(":") for step in payload.decode("ascii").split(";")]
        except UnicodeDecodeError:
            return None
        steps = [(verb, value) for verb, _, value in pairs]
        return steps if all(hasattr(self, f"do_{verb}") for verb, _ in steps) else None

    # ------------------------------------------------------------ verbs: results and side effects

    def do_noop(self, _value: str) -> None:
        """Do nothing; the value only makes the payload longer."""

    def do_note(self, value: str) -> None:
        """Write `value` into the ledger."""
        ledger.append(self.ledger, value)

    def do_echo(self, value: str) -> str:
        """Return `value`."""
        return value

    def do_big(self, value: str) -> bytes:
        """Return a document of `value` bytes."""
        return b"x" * int(value)

    def do_end(self, value: str) -> int:
        """End with the code `value`."""
        return int(value)

    def do_raise(self, _value: str) -> None:
        """Raise `ValueError`."""
        raise ValueError("as asked")

    def do_pid(self, _value: str) -> str:
        """Return the pid of the process."""
        return str(os.getpid())

    def do_thread(self, _value: str) -> str:
        """Return ``main`` in the main thread of the process, else the thread's name."""
        here = threading.current_thread()
        return "main" if here is threading.main_thread() else here.name

    def do_imported(self, value: str) -> str:
        """Return whether the module `value` has been imported in this process: yes or no."""
        return "yes" if value in sys.modules else "no"

    def do_value(self, _value: str) -> str:
        """Return the VALUE of the recipe's module, as it was when this workload was created."""
        return self.value

    # ------------------------------------------------------------ verbs: duration

    def do_sleep(self, value: str) -> None:
        """Sleep `value` seconds in one call."""
        time.sleep(float(value))

    def do_spin(self, value: str) -> None:
        """Run Python code for `value` seconds."""
        for _ in _moments(float(value)):
            time.sleep(_STEP)

    def do_await(self, value: str) -> None:
        """Wait until the file `value` exists."""
        _wait_for(lambda: os.path.exists(value), value)

    def do_meet(self, value: str) -> None:
        """Wait until `value` jobs have written "in" to the ledger."""
        _wait_for(lambda: ledger.read(self.ledger)["in"] >= int(value), value)

    def do_soft(self, value: str) -> str:
        """Run for `value` seconds; clean up at the soft limit."""
        try:
            self.do_spin(value)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "not interrupted"

    def do_swallow(self, value: str) -> None:
        """Sleep `value` seconds; ignore an exception that ends the sleep early."""
        with contextlib.suppress(BaseException):
            time.sleep(float(value))

    def do_stubborn(self, value: str) -> None:
        """Run for `value` seconds and ignore all exceptions."""
        end = time.monotonic() + float(value)
        while time.monotonic() < end:
            with contextlib.suppress(BaseException):
                self.do_spin(str(end - time.monotonic()))

    def do_take_signals(self, value: str) -> None:
        """Take the signals that a pool might use: "ignore" or "block" them, or set a "handler"."""
        if value == "block":
            signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
            return
        with contextlib.suppress(ValueError):  # not the main thread, which alone may set handlers
            for signum in TAKEN:
                signal.signal(signum, signal.SIG_IGN if value == "ignore" else lambda *_: None)

    def do_locks(self, value: str) -> None:
        """Take and release the lock `value` (see `framework.testing.locks`) over and over."""
        take = LOCKS[value]
        for _ in _moments(GIVE_UP):
            take()

    def do_lock(self, value: str) -> None:
        """Take and release the lock `value` once."""
        LOCKS[value]()

    # ------------------------------------------------------------ verbs: end of the process

    def do_die(self, value: str) -> None:
        """Send the signal `value` to this process."""
        os.kill(os.getpid(), int(value))
        time.sleep(GIVE_UP)

    def do_exit(self, value: str) -> None:
        """End this process with the exit code `value`."""
        os._exit(int(value))

    # ------------------------------------------------------------ verbs for coroutines

    async def ado_sleep(self, value: str) -> None:
        """Sleep `value` seconds."""
        await asyncio.sleep(float(value))

    ado_spin = ado_sleep

    async def ado_await(self, value: str) -> None:
        """Wait until the file `value` exists."""
        while not os.path.exists(value):
            await asyncio.sleep(_STEP)

    async def ado_meet(self, value: str) -> None:
        """Wait until `value` jobs have written "in" to the ledger."""
        while ledger.read(self.ledger)["in"] < int(value):
            await asyncio.sleep(_STEP)

    async def ado_soft(self, value: str) -> str:
        """Sleep `value` seconds; clean up at the soft limit."""
        try:
            await asyncio.sleep(float(value))
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "not interrupted"

    async def ado_swallow(self, value: str) -> None:
        """Sleep, and take no notice of whatever ends that earlier."""
        with contextlib.suppress(BaseException):
            await asyncio.sleep(float(value))

    async def ado_stubborn(self, value: str) -> None:
        """Sleep `value` seconds and ignore all exceptions."""
        end = time.monotonic() + float(value)
        while time.monotonic() < end:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(end - time.monotonic())


def _outcome(seq: int, began: float, answers: list[object]) -> Outcome:
    code, note, document = SUCCESS, "", None
    for answer in answers:
        if isinstance(answer, bytes):
            document = answer
        elif isinstance(answer, int):
            code = answer
        elif isinstance(answer, str):
            note = answer
    return Outcome(seq, code, time.monotonic() - began, document, note, f"traceback of {code}" if code else "")


def _moments(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def _wait_for(event: Callable[[], bool], name: str) -> None:
    for _ in _moments(GIVE_UP):
        if event():
            return
        time.sleep(_STEP)
    raise TimeoutError(f"waited {GIVE_UP:g} s for {name}")


def factory(recipe: Mapping[str, Any]) -> SampleWorkload:
    """Return the workload for `recipe`."""
    return SampleWorkload(recipe)
