"""Functions that turn a process into a child of the pool.

1. `load_application` and `import_modules` import the user's code; an error names the failing module and line.
2. `run_child` runs a child in a process that has loaded the application.
3. `die_with_parent` has the kernel signal a process when its parent dies.
4. `run_process` runs the main function of a process and exits with its code.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final, Never

import setproctitle

from framework.api.pool import Workload
from framework.api.workload import load
from framework.exceptions import FrameworkError
from framework_pools.prefork.child import INDEX_VARIABLE, Child, ChildSpec
from framework_pools.prefork.framing import CHUNK, FrameReader

_PR_SET_PDEATHSIG: Final = 1
# Opened once: in each child this would add a tenth to its start time.
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
#: Number of descriptors passed with the request for a child: socket, token pipe, shared memory.
PASSED: Final = 3


class LoadFailed(Exception):
    """The application, or a module, cannot be imported."""

    def __init__(self, text: str, trace: str) -> None:
        super().__init__(text)
        self.text = text
        self.trace = trace


def load_application(recipe: Mapping[str, Any], imports: Iterable[str]) -> Workload:
    """Build the workload that `recipe` describes, and import `imports`. Raises `LoadFailed`."""
    sys.path[:0] = [entry for entry in recipe.get("path", ()) if entry not in sys.path]
    # The user must see every error of a module, `SystemExit` and the like included.
    try:
        workload = load(recipe)
        for name in imports:
            import_module(name)
    except FrameworkError as error:
        raise LoadFailed(str(error), "") from error
    except BaseException as error:
        raise LoadFailed(_describe(error), traceback.format_exc()) from error
    return workload


def import_modules(names: Iterable[str]) -> None:
    """Import `names`. Raises `LoadFailed`."""
    for name in names:
        try:
            import_module(name)
        except BaseException as error:
            raise LoadFailed(f"{name}: {_describe(error)}", traceback.format_exc()) from error


def threads(known: Iterable[threading.Thread] = ()) -> list[str]:
    """Return the names of all threads except the main thread and those in `known`."""
    known = {threading.main_thread(), *known}
    return [thread.name for thread in threading.enumerate() if thread not in known]


def _describe(error: BaseException) -> str:
    """Return the error text with the line of the user's code."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return text  # the text contains file and line
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_internal(frame.filename)]
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text


def _is_internal(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, import_module.__code__.co_filename)


def receive(sock: socket.socket, reader: FrameReader, fds: list[int]) -> list[bytes]:
    """Return the next frames, none when the peer is gone; append the descriptors passed with them to `fds`."""
    while True:
        data, passed, _flags, _address = socket.recv_fds(sock, CHUNK, PASSED)
        for fd in passed:
            os.set_inheritable(fd, False)  # programs started by tasks must not get them
        fds += passed
        if not data:
            return []
        if frames := reader.feed(data):
            return frames


def run_child(workload: Workload, spec: ChildSpec, fds: list[int]) -> None:
    """Run the child `spec` in this process until it ends."""
    with contextlib.suppress(OSError):
        # A group of its own: terminating a task also ends the processes that the task has started.
        os.setpgid(0, 0)
    multiprocessing.current_process().name = spec.name
    os.environ[INDEX_VARIABLE] = str(spec.process_index)
    setproctitle.setproctitle(spec.title)
    Child(spec, workload, socket.socket(fileno=fds[0]), fds[1], fds[2]).main()


def die_with_parent(signum: int) -> None:
    """Have the kernel send `signum` to this process when its parent dies (0: nothing); Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


def run_process(main: Callable[[], int]) -> Never:
    """Run `main` and exit with the code that it returns, or with 1 when it fails."""
    code = 1
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the process ends: print the reason
        traceback.print_exc()
    finally:
        exit_process(code)


def exit_process(code: int) -> Never:
    """Flush the output and end this process at once."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Not `sys.exit`: a forked child must not run the exit handlers that belong to the server.
    os._exit(code)
