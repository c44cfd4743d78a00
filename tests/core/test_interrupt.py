"""Exceptions raised in a thread from outside: only inside the function of its task, and where no lock is lost."""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
import weakref

import pytest

from framework.api.interrupt import REFUSALS_MAX, Gate
from framework.api.thread_interrupt import raise_in_thread
from framework.testing.locks import LOCKS
from framework.worker.process.logs import pass_on_limits
from support.wait import wait_for


class Strike(BaseException):
    """What is raised."""


class Runner:
    """A thread that runs a function again each time it was interrupted, until `stop`."""

    def __init__(self, task):
        self.task = task
        self.struck = 0
        self.elsewhere = []
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.stopping:
            self._serve_one()

    def _serve_one(self):
        try:
            self._run()
        except Strike:
            self.struck += 1
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.elsewhere.append(error)

    def _run(self):
        self.task()

    def task_frame(self, frame):
        while (caller := frame.f_back) is not None:
            if caller.f_code is Runner._run.__code__:
                return frame
            frame = caller
        return None

    def strike(self, gate):
        return raise_in_thread(self.thread.ident, Strike, gate, self.task_frame)

    def stop(self):
        self.stopping = True
        gate = Gate(None)
        wait_for(lambda: not self.thread.is_alive() or (self.strike(gate) and False), 30, "the end of the thread")


@contextlib.contextmanager
def running(task):
    runner = Runner(task)
    try:
        yield runner
    finally:
        runner.stop()


@contextlib.contextmanager
def managed(lock):
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Wrapped:
    """A lock in Python code."""

    def __init__(self):
        self.lock = threading.RLock()

    def __enter__(self):
        self.lock.acquire()
        return self

    def __exit__(self, *_):
        self.lock.release()


def user_of(lock):
    """Return a function that takes and releases `lock`, in every way that there is."""
    entered = contextlib.ExitStack()

    def use():
        while True:
            with lock:
                sum(range(5))
            if isinstance(lock, Wrapped):
                with entered:
                    entered.enter_context(lock)
                continue
            lock.acquire()
            try:
                sum(range(5))
            finally:
                lock.release()
            with managed(lock):
                sum(range(5))

    return use


@pytest.mark.parametrize(
    "make", [threading.Lock, threading.RLock, threading.Condition, Wrapped], ids=lambda m: m.__name__
)
def test_no_lock_is_lost(make):
    lock = make()
    with running(user_of(lock)) as runner:
        for number in range(1, 61):
            gate = Gate(None)
            wait_for(lambda gate=gate: runner.strike(gate), 30, "a place to strike")
            wait_for(lambda number=number: runner.struck == number, 30, "the strike")
    assert not runner.elsewhere
    inner = lock.lock if isinstance(lock, Wrapped) else lock
    assert inner.acquire(timeout=30)


@pytest.mark.parametrize("kind", LOCKS)
def test_no_lock_of_the_standard_library_is_lost(kind):
    pass_on_limits()

    def use():
        while True:
            LOCKS[kind]()

    with running(use) as runner:
        for number in range(1, 41):
            gate = Gate(None)
            wait_for(lambda gate=gate: runner.strike(gate), 30, "a place to strike")
            wait_for(lambda number=number: runner.struck == number, 30, "the strike")
    LOCKS[kind]()


def test_nothing_is_raised_outside_of_the_task():
    idle = threading.Event()
    runner = Runner(idle.wait)
    runner.task_frame = lambda _frame: None
    gate = Gate(None)
    assert not any(runner.strike(gate) for _ in range(3 * REFUSALS_MAX))
    runner.stopping = True
    idle.set()
    runner.thread.join()
    assert not runner.struck
    assert not runner.strike(gate)  # the thread has ended


def test_the_wait_for_a_lock_ends_with_the_lock_and_not_before():
    """The exception would be raised just after the lock was taken."""
    lock = threading.Lock()
    lock.acquire()

    def wait():
        lock.acquire()
        lock.release()

    with running(wait) as runner:
        wait_for(lambda: sys._current_frames()[runner.thread.ident].f_code is wait.__code__, 30, "the wait")
        gate = Gate(None)
        assert not any(runner.strike(gate) for _ in range(3 * REFUSALS_MAX))
        lock.release()
    assert lock.acquire(timeout=30)


def test_the_wait_on_a_queue_or_condition_can_be_interrupted():
    waiting: queue.Queue[int] = queue.Queue()
    with running(waiting.get) as runner:
        gate = Gate(None)
        wait_for(lambda: runner.strike(gate), 30, "a place to strike")
        waiting.put(1)
        wait_for(lambda: runner.struck == 1, 30, "the strike")
        runner.stopping = True
        waiting.put(2)


def test_a_function_that_is_only_called_like_one_of_locks_is_interrupted_in_the_end():
    ended = threading.Event()

    def release():
        while not ended.wait(0.001):
            pass

    class Resource:
        def __exit__(self, *_):
            release()

        def __enter__(self):
            pass

    def use():
        with Resource():
            pass

    with running(use) as runner:
        wait_for(lambda: _runs(runner.thread, release), 30, "the function")
        gate, tries = Gate(None), 0
        while not runner.strike(gate):
            tries += 1
        assert tries >= REFUSALS_MAX
        wait_for(lambda: runner.struck, 30, "the strike")
        ended.set()


def _runs(thread, function):
    frame = sys._current_frames()[thread.ident]
    while frame is not None:
        if frame.f_code is function.__code__:
            return True
        frame = frame.f_back
    return False


def test_a_signal_interrupts_the_wait_for_a_lock_after_a_while():
    lock = threading.Lock()
    lock.acquire()
    gate = Gate(REFUSALS_MAX)
    tries = 0

    def handle(_signum, frame):
        nonlocal tries
        tries += 1
        if gate.admits(frame, frame.f_lasti, lambda frame: frame):
            raise Strike

    def wait():
        lock.acquire()

    before = signal.signal(signal.SIGURG, handle)
    main = threading.get_ident()
    ended = threading.Event()

    def send():
        wait_for(lambda: sys._current_frames()[main].f_code is wait.__code__, 30, "the wait")
        while not ended.wait(0.001):
            signal.pthread_kill(main, signal.SIGURG)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(Strike):
            wait()
    finally:
        ended.set()
        sender.join()
        signal.signal(signal.SIGURG, before)
    assert tries >= REFUSALS_MAX
    assert lock.locked()


def test_a_running_thread_is_interrupted_at_once():
    def spin():
        while True:
            time.monotonic()

    with running(spin) as runner:
        wait_for(lambda: runner.strike(Gate(None)), 30, "a place to strike")
        wait_for(lambda: runner.struck, 30, "the strike")


def test_nothing_is_raised_in_callbacks_of_weak_references():
    class Thing:
        pass

    things = weakref.WeakSet()
    ignored = []

    def drop():
        while True:
            things.add(Thing())

    hook, sys.unraisablehook = sys.unraisablehook, ignored.append
    try:
        with running(drop) as runner:
            for number in range(1, 101):
                gate = Gate(None)
                wait_for(lambda gate=gate: runner.strike(gate), 30, "a place to strike")
                wait_for(lambda number=number: runner.struck == number or ignored, 30, "the strike")
        assert not ignored
    finally:
        sys.unraisablehook = hook


def test_many_threads_are_interrupted_in_their_tasks_and_nowhere_else():
    def task():
        time.sleep(0.001)  # the exception is raised when it returns

    class Beside(Runner):
        def _serve(self):
            try:
                while not self.stopping:
                    self._serve_one()
                    for _ in range(600):
                        pass
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.elsewhere.append(error)

    runners = [Beside(task) for _ in range(6)]
    sent = dict.fromkeys(runners, 0)
    while sum(sent.values()) < 300:
        for runner in runners:
            if runner.struck == sent[runner]:
                sent[runner] += runner.strike(Gate(None))
        assert all(runner.thread.is_alive() for runner in runners)
    for runner, count in sent.items():
        wait_for(lambda runner=runner, count=count: runner.struck == count, 30, "the last strike")
        runner.stopping = True
        runner.thread.join(30)
        assert not runner.elsewhere
