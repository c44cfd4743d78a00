"""The sample application with tasks that misbehave: `-A rough`, in the environment of `proj`."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time

from framework.testing.locks import LOCKS
from support.proj import app, note

#: A lock of the tasks' own.
OWN = threading.RLock()
HOARD: list[bytearray] = []


class Unspeakable(Exception):
    """Says nothing of itself."""

    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __repr__


class Stranger(BaseException):
    """None of those that a worker could expect."""


@app.task(name="rough.raises")
def raises(what):
    if what == "recursive":
        argument: list = []
        argument.append(argument)
        raise ValueError(argument)
    if what == "unpicklable":
        raise ValueError(lambda: None, threading.Lock())
    if what == "surrogate":
        raise ValueError("\ud800")
    if what == "gevent":
        from gevent import Timeout

        raise Timeout(0.5)
    kinds = {
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "generator": GeneratorExit(),
        "stranger": Stranger("hello"),
        "unspeakable": Unspeakable(),
    }
    raise kinds[what]


@app.task(name="rough.returns")
def returns(what):
    return {"object": object(), "surrogate": "\ud800"}[what]


@app.task(name="rough.prints")
def prints(megabytes):
    for _ in range(megabytes):
        sys.stdout.write("x" * 1_000_000 + "\n")
    return megabytes


@app.task(name="rough.leaves_a_thread")
def leaves_a_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return "left"


@app.task(name="rough.closes_fds")
def closes_fds():
    for fd in range(3):
        os.close(fd)
    return "closed"


@app.task(name="rough.forks")
def forks():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1]


@app.task(name="rough.leaves_orphans")
def leaves_orphans(count):
    """Fork twice, `count` times; return the numbers of the processes that have lost their parents and ended."""
    read, write = os.pipe()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            if os.fork() == 0:
                os.write(write, b"%d\n" % os.getpid())
            os._exit(0)
        os.waitpid(pid, 0)
    os.close(write)
    with open(read) as numbers:
        return [int(number) for number in numbers]


@app.task(name="rough.ends_with")
def ends_with(code):
    """Return the exit code of a program that ends with `code`, asked for long after it has ended."""
    process = subprocess.Popen(["sh", "-c", f"exit {code}"], stdout=subprocess.PIPE)
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process.wait()


@app.task(name="rough.takes_signals")
def takes_signals():
    """Ignore the signals with which pools interrupt tasks."""
    for signum in (signal.SIGUSR1, signal.SIGURG):
        signal.signal(signum, signal.SIG_IGN)


@app.task(name="rough.locks")
def locks(kind, entry):
    """Take and release a lock over and over, until somebody ends this; `kind`: see `take_lock`."""
    note(entry)
    while True:
        take_lock(kind)


@app.task(name="rough.lock")
def take_lock(kind):
    """Take and release a lock once: one of `LOCKS`, of the worker's log, of what prints, or of the tasks' own."""
    if kind == "worker's log":
        logging.getLogger("x").warning("busy")
    elif kind == "print":
        print("busy")
    elif kind == "own":
        with OWN:
            sum(range(50))
    else:
        LOCKS[kind]()


@app.task(name="rough.keeps_the_log")
def keeps_the_log():
    """Take the lock of the worker's log, and never give it back."""
    logging.getLogger().handlers[0].acquire()
    time.sleep(3600)


@app.task(name="rough.goes_away")
def goes_away():
    os.chdir("/")
    return os.getcwd()


def end_process(how, entry):
    """End this process: exit, segfault, oom, or the number of a signal."""
    if entry is not None:
        note(entry)
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "oom":
        grabs(4000)
    os.kill(os.getpid(), int(how))


@app.task(name="rough.dies")
def dies(how, entry=None):
    end_process(how, entry)


@app.task(name="rough.dies_late", acks_late=True)
def dies_late(how, entry=None):
    end_process(how, entry)


@app.task(name="rough.dies_again", acks_late=True, reject_on_worker_lost=True, max_deliveries=3)
def dies_again(how, entry=None):
    end_process(how, entry)


@app.task(name="rough.grabs")
def grabs(megabytes):
    """Take so much memory, and keep it."""
    HOARD.extend(bytearray(b"x" * 1_000_000) for _ in range(megabytes))
    return os.getpid()


class Unforeseen(Exception):
    """Raised by a copy of a process."""


@app.task(name="rough.copies", acks_late=True)
def copies(how, entry):
    """Fork. The copy leaves the task as `how` says; return how it ended, once it has."""
    pid = os.fork()
    if pid:
        if how == "killed":
            os.kill(pid, signal.SIGTERM)
        status = os.waitpid(pid, 0)[1]
        note(entry)
        return os.waitstatus_to_exitcode(status)
    if how == "killed":
        time.sleep(600)
    if how == "raises":
        raise Unforeseen
    if how == "exits":
        sys.exit(5)
    return "from the copy"


@app.task(name="rough.copies_and_waits", acks_late=True)
def copies_and_waits(gate, entry):
    """Fork; the copy writes `entry`, and returns when the file `gate` exists."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    note(entry)
    while not os.path.exists(gate):
        time.sleep(0.01)
    return "from the copy"


@app.task(name="rough.copies_async", acks_late=True)
async def copies_async(how, entry):
    return copies.run(how, entry)


@app.task(name="rough.dies_beside_a_copy")
def dies_beside_a_copy(gate, entry):
    """Fork and be killed; the copy returns once the file `gate` exists, after it has written `entry` there."""
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    while not os.path.exists(gate):
        time.sleep(0.01)
    with open(gate, "a") as file:
        file.write(f"{os.getpid()}\n")
    return "from the copy"


@app.task(name="rough.leaves_threads")
def leaves_threads(count):
    """Start `count` threads that never end, and that are no daemons."""
    for number in range(count):
        threading.Thread(target=threading.Event().wait, name=f"left behind {number}", daemon=False).start()


@app.task(name="rough.takes_stdout")
def takes_stdout():
    """Leave the process without standard streams."""
    sys.stdout = sys.stderr = None
