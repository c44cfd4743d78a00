"""A workload for tests of our own pools: what `framework.testing.workload` can do, and what only some of them need.

1. `factory` is what a recipe names; `broken` raises as a broken application does.
2. More verbs: grab memory or the interpreter's lock, start a process, read the file of the recipe (stamp), tell the
   process' place.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from framework.testing.workload import SampleWorkload as Basis

HOARD: list[bytearray] = []


class SampleWorkload(Basis):
    def __init__(self, recipe: Mapping[str, Any]) -> None:
        super().__init__(recipe)
        self.stamp = str(recipe.get("stamp", ""))
        self.fails_to_prepare = bool(recipe.get("fails_to_prepare"))

    def prepare(self) -> None:
        if self.fails_to_prepare:
            raise SystemExit(3)
        super().prepare()

    def do_grab(self, value: str) -> None:
        HOARD.append(bytearray(os.urandom(1024) * int(value) * 1024))

    def do_seize(self, _value: str) -> None:
        """Wait in C for ever, with the interpreter's lock."""
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.PyDLL(None).pthread_mutex_lock(mutex)

    def do_catch(self, value: str) -> None:
        """Handle TERM: note it, and go on until the file `value` exists."""
        signal.signal(signal.SIGTERM, lambda *_: self.do_note("caught"))
        self.do_note("in")
        self.do_await(value)

    def do_child_signal(self, value: str) -> str:
        """Return the code with which a process of this job ends by TERM."""
        if value == "fork":
            pid = os.fork()
            if pid == 0:
                signal.pause()
        else:
            pid = subprocess.Popen(["/bin/sleep", "60"]).pid
        os.kill(pid, signal.SIGTERM)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def do_haunt(self, value: str) -> None:
        """Leave a thread behind that seizes the interpreter's lock when the job has ended, and notes it before."""

        def haunt() -> None:
            self.do_note("haunted")
            self.do_seize(value)

        threading.Timer(0.1, haunt).start()

    def do_descriptors(self, _value: str) -> str:
        """Return the descriptors that a process has which this one starts and hands everything that it may."""
        script = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))"
        process = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, close_fds=False, check=True)
        return process.stdout.decode()

    def do_module(self, value: str) -> str:
        """Return WORD of the module `value`, if this process has imported it."""
        module = sys.modules.get(value)
        return "absent" if module is None else str(module.WORD)

    def do_spawn(self, value: str) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        with open(value, "w") as file:
            file.write(str(process.pid))
        time.sleep(60)

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


def deadly(_recipe: Mapping[str, Any]) -> SampleWorkload:
    """As the OOM killer does it, while a large application is imported."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it lives")
