"""How a process comes to run jobs: it loads the application, and becomes a child.

1. `load_application` and `import_modules` say in one sentence what cannot be imported, and where in the user's code.
2. `run_child` is a child's life in a process that has loaded the application.
3. `die_with_parent` ties a process to the one that started it.
4. `live` runs a process to its end, whatever that is.
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
# Here, once: opening it costs each child as much as a tenth of its start.
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
#: Descriptors that come with the request for a child: socket, tokens, page.
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
    # Whatever a user's module raises belongs in front of the user: also what is no `Exception`.
    try:
        workload = load(recipe)
        for name in imports:
            import_module(name)
    except FrameworkError as error:
        raise LoadFailed(str(error), "") from error
    except BaseException as error:
        raise LoadFailed(_told(error), traceback.format_exc()) from error
    return workload


def import_modules(names: Iterable[str]) -> None:
    """Import `names`. Raises `LoadFailed`."""
    for name in names:
        try:
            import_module(name)
        except BaseException as error:
            raise LoadFailed(f"{name}: {_told(error)}", traceback.format_exc()) from error


def threads(known: Iterable[threading.Thread] = ()) -> list[str]:
    """Return the names of the threads beside the main one and those that are `known`."""
    known = {threading.main_thread(), *known}
    return [thread.name for thread in threading.enumerate() if thread not in known]


def _told(error: BaseException) -> str:
    """Return what went wrong, and where in the user's code."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return text  # it names its place itself
    places = [place for place in traceback.extract_tb(error.__traceback__) if not _is_machinery(place.filename)]
    return f"{text} ({places[-1].filename}, line {places[-1].lineno})" if places else text


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, import_module.__code__.co_filename)


def receive(sock: socket.socket, reader: FrameReader, fds: list[int]) -> list[bytes]:
    """Return the next frames, none when the other end is gone; the descriptors that came with them go into `fds`."""
    while True:
        data, passed, _flags, _address = socket.recv_fds(sock, CHUNK, PASSED)
        for fd in passed:
            os.set_inheritable(fd, False)  # what a task starts has no use for them
        fds += passed
        if not data:
            return []
        if frames := reader.feed(data):
            return frames


def run_child(workload: Workload, spec: ChildSpec, fds: list[int]) -> None:
    """Be the child `spec` in this process."""
    with contextlib.suppress(OSError):
        # Its own group: a task that is terminated takes the processes with it that it started.
        os.setpgid(0, 0)
    multiprocessing.current_process().name = spec.name
    os.environ[INDEX_VARIABLE] = str(spec.process_index)
    setproctitle.setproctitle(spec.title)
    Child(spec, workload, socket.socket(fileno=fds[0]), fds[1], fds[2]).main()


def die_with_parent(signum: int) -> None:
    """Ask the kernel for `signum` when the parent dies (0: for nothing); Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


def live(life: Callable[[], int]) -> Never:
    """Run `life`, and end this process with the exit code that it returns, or with 1 when it fails."""
    code = 1
    try:
        code = life()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the end of a process: what it died of belongs on its stderr
        traceback.print_exc()
    finally:
        leave(code)


def leave(code: int) -> Never:
    """End this process at once, with all that it has printed on its way."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Not `sys.exit`: in a fork, what the application registered to run at exit is the server's.
    os._exit(code)
