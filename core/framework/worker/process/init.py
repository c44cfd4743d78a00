"""The init process of a worker in a container: reaps the processes that tasks leave behind.

The kernel gives a process whose parent has ended to process 1, or to a process nearer by that has asked for such
orphans. If that is the worker, it cannot reap them itself: it would take the exit codes of programs that tasks have
started and wait for. So it runs the worker in a child process instead, and:

1. Passes signals on to the worker.
2. Reaps every process that ends, and exits with the worker's exit code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_WAITED_FOR: Final = (*_PASSED_ON, signal.SIGCHLD)
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_CHILD_SUBREAPER: Final = 37
#: `si_code` of a signal from a terminal, which the worker has got as well.
_SI_KERNEL: Final = 128


def become_init() -> int | None:
    """Fork the worker if orphans come to this process. Return None in the worker; in this process, its exit code."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    if os.getpid() != 1 and not _gets_orphans(libc):
        return None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Blocked, not handled: process 1 loses signals that it neither handles nor blocks.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    parent = os.getpid()
    worker = os.fork()
    if worker:
        return _serve(worker)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return None


def _gets_orphans(libc: ctypes.CDLL) -> bool:
    answer = ctypes.c_int()
    return libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0) == 0 and answer.value != 0


def _serve(worker: int) -> int:
    while True:
        received = signal.sigwaitinfo(_WAITED_FOR)
        if received.si_signo == signal.SIGCHLD:
            if (code := _reap(worker)) is not None:
                return code
        elif received.si_code != _SI_KERNEL:
            # Not reaped yet: the pid is still the worker's.
            os.kill(worker, received.si_signo)


def _reap(worker: int) -> int | None:
    """Reap what has ended; return the worker's exit code if it has, in the shell's form if a signal ended it."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pid == 0:
            return None
