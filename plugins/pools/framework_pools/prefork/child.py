"""The main function of a child: one process that runs one job after another.

1. Claims jobs: the worker writes the number of each job into a pipe, eight bytes a job; a process that reads a number
   owns the job. The worker can read the pipe too, and so take back, at any moment and without the child's help, exactly
   the jobs that the child has not claimed. The kernel decides each race: no job runs twice, none is lost.
2. Receives the jobs in batches from a socket, and drops the jobs that the worker has taken back.
3. Writes the running job and its start to the shared memory, and each outcome to the outbox there; rings the doorbell
   when it is idle, or every few milliseconds.
4. Exits at its limit of jobs or memory, or when the worker has closed the pipe; dies with the worker.
5. Turns SIGUSR1 into `SoftTimeLimitExceeded`, only inside the function of the task for which the signal was sent, and
   where no lock is lost; the worker sends the signal again until then.
6. Leaves the signals that stop a worker to the main process: a service manager sends them to every process. Ends by one
   that the main process has sent. A process that a job forks has the default handlers.
"""

from __future__ import annotations

import logging
import marshal
import os
import select
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from types import FrameType
from typing import Any, Final, NamedTuple

from framework.api.interrupt import REFUSALS_MAX, Gate
from framework.api.pool import TIMED_OUT, WORKER_LOST, AsyncWorkload, Job, Workload
from framework.exceptions import NotRegistered, SoftTimeLimitExceeded
from framework_pools._signals import OwnSignal
from framework_pools.prefork import shared_memory as shared_memory
from framework_pools.prefork import stacks
from framework_pools.prefork.framing import CHUNK, DOORBELL, FrameReader, frame

logger = logging.getLogger(__name__)

#: Environment variable with the child's process index, for `%i` and `%I` in file names.
INDEX_VARIABLE: Final = "FRAMEWORK_PROCESS_INDEX"
#: The doorbell rings at the latest after this time (ns), or after this number of outcomes.
_DOORBELL_DELAY: Final = 2_000_000
_DOORBELL_BATCH: Final = 64
_TOKEN_SIZE: Final = 8
#: Code of an outcome: this process has not imported the task; a restart in progress may import it.
UNKNOWN_HERE: Final = -1
#: Signals that a child takes from the main process only: from others, such as a service manager, they mean the worker.
LEFT_TO_WORKER: Final = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2)
_PAGE_KIB: Final = os.sysconf("SC_PAGE_SIZE") // 1024

_as_job: Callable[[tuple[Any, ...]], Job] = partial(tuple.__new__, Job)


class ChildSpec(NamedTuple):
    """Identity and limits of a child. A plain tuple, so that it can be marshalled."""

    #: Unique among all children of a worker.
    number: int
    #: From 1; a child that replaces another gets the same index.
    process_index: int
    name: str
    title: str
    #: Number of jobs, and KiB of memory, after which the child exits; 0: no limit.
    max_tasks: int
    max_memory: int


class Child:
    """The child process: claims jobs, runs them, reports outcomes."""

    def __init__(self, spec: ChildSpec, workload: Workload, sock: socket.socket, tokens: int, page_fd: int) -> None:
        self._spec = spec
        self._workload = workload
        self._socket = sock
        self._tokens = tokens
        self._page = shared_memory.ChildMemory(page_fd)
        stacks.register(page_fd)
        self._gate = Gate(REFUSALS_MAX)
        self._poll = select.poll()
        self._poll.register(tokens, select.POLLIN)
        self._jobs: deque[Job] = deque()
        self._reader = FrameReader()
        #: The signal mask of each thread that is in `os.fork`.
        self._forking = threading.local()

    def main(self) -> None:
        """Run jobs until a limit is reached, the worker closes the pipe, or the worker dies."""
        self._page.words[shared_memory.LOADED] = monotonic_ns()
        self._set_signal_handlers()
        self._workload.prepare()
        self._page.words[shared_memory.STATE] = shared_memory.READY
        self._socket.sendall(DOORBELL)
        try:
            self._page.words[shared_memory.STATE] = self._serve()
            self._socket.sendall(DOORBELL)
        except (BrokenPipeError, ConnectionResetError):
            return  # the worker is gone
        finally:
            self._workload.release()

    def _set_signal_handlers(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._own_signal = OwnSignal(signal.SIGUSR1, self._soft_limit)
        for signum in LEFT_TO_WORKER:
            # Not ignored: the programs that a task starts would ignore it, too.
            signal.signal(signum, self._leave_to_worker)
        os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._reset_in_copy)

    def _leave_to_worker(self, signum: int, _frame: FrameType | None) -> None:
        if self._page.words[shared_memory.ENDING] == signum:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _block(self) -> None:
        # A copy must not lose a signal that arrives before it has the default handlers.
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_WORKER)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _reset_in_copy(self) -> None:
        for signum in LEFT_TO_WORKER:
            if signal.getsignal(signum) == self._leave_to_worker:
                signal.signal(signum, signal.SIG_DFL)
        self._unblock()

    def _soft_limit(self, _signum: int, interrupted: FrameType | None) -> None:
        words = self._page.words
        words[shared_memory.HEARD] = words[shared_memory.ENDING]
        if interrupted is None or words[shared_memory.SOFT] != words[shared_memory.SEQ]:
            return
        workload = self._workload
        if isinstance(workload, AsyncWorkload) and workload.interrupt(
            threading.get_ident(), SoftTimeLimitExceeded, interrupted
        ):
            words[shared_memory.SOFT] = 0  # the exception is raised where the coroutine awaits
        elif self._gate.admits(interrupted, interrupted.f_lasti, workload.task_frame):
            words[shared_memory.SOFT] = 0
            raise SoftTimeLimitExceeded

    # ------------------------------------------------------------ the loop

    def _serve(self) -> int:
        page, words, jobs = self._page, self._page.words, self._jobs
        read, tokens, from_bytes = os.read, self._tokens, int.from_bytes
        max_tasks, max_memory = self._spec.max_tasks, self._spec.max_memory
        started_at, seq_at = shared_memory.STARTED, shared_memory.SEQ
        run = self._workload.run
        unannounced = 0
        since = 0
        done = 0
        while True:
            try:
                token = read(tokens, _TOKEN_SIZE)
            except BlockingIOError:
                if unannounced:
                    self._socket.sendall(DOORBELL)
                    unannounced = 0
                self._poll.poll()
                continue
            if not token:
                return shared_memory.LEAVING
            seq = from_bytes(token, sys.byteorder)
            while True:
                while not jobs:
                    self._receive()
                job = jobs.popleft()
                if job[0] == seq:
                    break
            if job[4] is not None:  # the soft limit
                self._own_signal.take_back()
            now = monotonic_ns()
            words[started_at] = now
            words[seq_at] = seq
            if unannounced and (now - since > _DOORBELL_DELAY or unannounced >= _DOORBELL_BATCH):
                self._socket.sendall(DOORBELL)
                unannounced = 0
            try:
                outcome = tuple(run(job))
            except SoftTimeLimitExceeded:
                # Raised outside the task's own code; the worker, which has the limit, makes the outcome.
                outcome = (seq, TIMED_OUT, (monotonic_ns() - now) / 1e9, None, "", "")
            except NotRegistered:
                outcome = (seq, UNKNOWN_HERE, (monotonic_ns() - now) / 1e9, None, "", "")
            except BaseException as error:  # noqa: BLE001 - it ends the job, not the process with its waiting jobs
                text = f"the task ended with {type(error).__qualname__}, which no task should raise"
                outcome = (seq, WORKER_LOST, (monotonic_ns() - now) / 1e9, None, text, "")
            too_large = page.put(outcome)
            if too_large is not None:
                self._socket.sendall(frame(too_large))
            if not unannounced:
                since = now
            unannounced += 1
            done += 1
            if done == max_tasks:
                return shared_memory.LEAVING
            if max_memory and (used := _resident()) > max_memory:
                words[shared_memory.MEMORY] = used
                return shared_memory.LEAVING_MEMORY

    def _receive(self) -> None:
        data = self._socket.recv(CHUNK)
        if not data:
            raise BrokenPipeError
        for batch in self._reader.feed(data):
            self._jobs.extend(map(_as_job, marshal.loads(batch)))


def _resident() -> int:
    """Return this process's resident memory in KiB."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            return int(statm.read().split()[1]) * _PAGE_KIB
    except FileNotFoundError:
        import resource  # memory of a child: systems without /proc alone need it

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
