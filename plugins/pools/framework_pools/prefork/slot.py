"""The worker's side of one child.

1. `give` writes jobs into the socket, and their numbers into the pipe from which the child claims jobs.
2. `take_back` returns, at any moment, the jobs that the child has not claimed; they never run in the child.
3. `collect` empties the child's outbox.
4. `retire` ends the child after its current job; `signal` reaches the child and the processes that it started.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from struct import pack
from time import monotonic, monotonic_ns
from typing import Any, Final

from framework.api.interrupt import retry_delays
from framework.api.loop import Loop, Timer
from framework.api.pool import Job
from framework_pools.prefork import shared_memory as shared_memory
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.framing import CHUNK, FrameReader, Outlet
from framework_pools.prefork.launcher import Launcher
from framework_pools.prefork.stacks import is_stopped

_TOKENS_MAX: Final = 1 << 16
_STOPPING: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class PendingKill:
    """The job for which a child is about to be killed, with the code and text of its outcome."""

    __slots__ = ("code", "job", "text")

    def __init__(self, job: Job, code: int, text: str) -> None:
        self.job = job
        self.code = code
        self.text = text


class Slot:
    """One child, from the request to start it until its exit is processed."""

    def __init__(self, loop: Loop, launcher: Launcher, spec: ChildSpec, on_change: Callable[[Slot], object]) -> None:
        self._loop = loop
        self._on_change = on_change
        self.launcher = launcher
        self.spec = spec
        self.pid: int | None = None
        #: Jobs given and not ended, in order, by number, each with its expected cost in seconds.
        self.jobs: dict[int, tuple[Job, float]] = {}
        #: Sum of the costs of `jobs`, in seconds.
        self.load = 0.0
        #: When the child last made progress, got a job while idle, or was retired (monotonic seconds).
        self.progress_at = 0.0
        #: The child has started and can run jobs.
        self.ready = False
        #: The child gets no more jobs and exits.
        self.retired = False
        #: The child's current job takes too long for other jobs to wait behind it.
        self.stalled = False
        self.pending_kill: PendingKill | None = None
        #: A signal or a debugger has stopped the child.
        self.stopped = False
        #: The child is about to be killed because it makes no progress.
        self.given_up = False
        #: A request for the child's stack is in progress.
        self.stack_requested = False
        #: Number of the last job that was logged as stuck.
        self.stuck_logged: int | None = None
        self.closed = False
        self._detached = False
        #: Number of the last job whose soft time limit was handled.
        self.soft_limit_sent: int | None = None
        #: Number of jobs that the child may still get; None: no limit.
        self.left: int | None = spec.max_tasks or None
        #: Jobs ended, for `inspect stats`.
        self.done = 0
        self.limit_timer: Timer | None = None
        self.limit_due = 0.0
        self.start_timer: Timer | None = None

        #: Outcomes too large for the outbox, received through the socket.
        self._large: list[tuple[Any, ...]] = []

        self._socket, theirs = socket.socketpair()
        self._tokens, self._tokens_write = os.pipe()
        #: The child writes its stack to the same descriptor: see `stacks`.
        self.page_fd = shared_memory.create()
        try:
            # Both processes read from the same open pipe: neither may block in it.
            os.set_blocking(self._tokens, False)
            os.set_blocking(self._tokens_write, False)
            self._socket.setblocking(False)
            self.page = shared_memory.ChildMemory(self.page_fd)
            self.outlet = Outlet(self._socket, loop)
            self._reader = FrameReader()
            launcher.fork(spec, (theirs.fileno(), self._tokens, self.page_fd))
        except OSError:
            self._socket.close()
            os.close(self._tokens)
            os.close(self._tokens_write)
            os.close(self.page_fd)
            raise
        finally:
            theirs.close()
        loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def accepts(self) -> bool:
        """Whether the child may be given jobs."""
        return self.ready and not (self.retired or self.stalled) and self.left != 0 and self.pending_kill is None

    # ------------------------------------------------------------ jobs

    def give(self, batch: Sequence[tuple[Job, float]]) -> None:
        """Send `batch` to the child. Raises `ValueError`, without effect, if a payload cannot be marshalled."""
        self.outlet.send(marshal.dumps([tuple(job) for job, _cost in batch], shared_memory.VERSION))
        seqs = [job[0] for job, _cost in batch]
        if not self.jobs:
            self.progress_at = monotonic()
        for seq, entry in zip(seqs, batch, strict=True):
            self.jobs[seq] = entry
            self.load += entry[1]
        if self.left is not None:
            self.left -= len(seqs)
        self._write_tokens(seqs)

    def _write_tokens(self, seqs: Sequence[int]) -> None:
        # The pipe holds 8,192 numbers, far more than a child ever gets.
        os.write(self._tokens_write, pack(f"={len(seqs)}Q", *seqs))

    def take_back(self, keep: Iterable[int] = ()) -> list[tuple[Job, float]]:
        """Take back and return the jobs that the child has not claimed, except those in `keep`."""
        if len(self.jobs) == 0:
            return []
        try:
            data = os.read(self._tokens, _TOKENS_MAX)
        except BlockingIOError:
            return []
        seqs = memoryview(data).cast("Q").tolist()
        kept = [seq for seq in seqs if seq in keep] if keep else []
        if kept:
            self._write_tokens(kept)
            seqs = [seq for seq in seqs if seq not in keep]
        taken = [self.jobs.pop(seq) for seq in seqs]
        self._reduce_load(sum(cost for _job, cost in taken))
        if self.left is not None:
            self.left += len(taken)
        return taken

    def collect(self) -> list[tuple[Any, ...]]:
        """Return the new outcomes from the child's outbox and from the socket."""
        records = self.page.take()
        if self._large:
            records += self._large
            self._large = []
        if records:
            self.progress_at = monotonic()
        return records

    def end_job(self, seq: int) -> Job | None:
        """Remove the ended job `seq` and return it; None if the child does not have it."""
        entry = self.jobs.pop(seq, None)
        if entry is None:
            return None
        self._reduce_load(entry[1])
        self.stalled = False
        self.done += 1
        return entry[0]

    def _reduce_load(self, cost: float) -> None:
        # Sums of floats drift: an empty slot has a load of exactly 0.
        load = self.load - cost
        self.load = load if self.jobs and load > 0.0 else 0.0

    def running(self) -> tuple[Job, int] | None:
        """Return the running job and its start (monotonic ns); None if no job runs."""
        seq, started = self.page.running()
        entry = self.jobs.get(seq)
        return None if entry is None else (entry[0], started)

    def elapsed(self) -> float:
        """Return the seconds since the running job started; 0 if no job runs."""
        current = self.running()
        return 0.0 if current is None else (monotonic_ns() - current[1]) / 1e9

    # ------------------------------------------------------------ the child

    @property
    def state(self) -> int:
        """The child's state, a constant of `shared_memory`."""
        return int(self.page.words[shared_memory.STATE])

    @property
    def loaded_at(self) -> float:
        """When the child had loaded the application (monotonic seconds); 0: not yet."""
        return float(self.page.words[shared_memory.LOADED]) / 1e9

    def _readable(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # The server reaps the child and reports its exit status.
            self._loop.remove_reader(self._socket.fileno())
        self._large += [marshal.loads(record) for record in self._reader.feed(data)]
        self._on_change(self)

    def collect_all(self) -> list[tuple[Any, ...]]:
        """Return every outcome that a dead child has left in its outbox and in the socket."""
        records = self.collect()
        with suppress(OSError):
            while data := self._socket.recv(CHUNK):
                records += [marshal.loads(record) for record in self._reader.feed(data)]
        return records

    def retire(self) -> None:
        """Let the child exit after the jobs that it has claimed; call `take_back` first. Harmless when repeated."""
        if not self.retired:
            self.retired = True
            self.progress_at = monotonic()
            os.close(self._tokens_write)

    def raise_soft_limit(self, seq: int) -> None:
        """Raise `SoftTimeLimitExceeded` in job `seq`, if it still runs, as soon as that is possible."""
        self.soft_limit_sent = seq
        if self.pid is not None:
            self.page.words[shared_memory.SOFT] = seq
            self._signal_soft_limit(seq, retry_delays())

    def _signal_soft_limit(self, seq: int, delays: Iterator[float]) -> None:
        # The child writes 0 when it raises the exception.
        if seq in self.jobs and not self.closed and self.page.words[shared_memory.SOFT] == seq and self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
            self._loop.call_later(next(delays), self._signal_soft_limit, seq, delays)

    def signal(self, signum: int) -> None:
        """Send `signum` to the child and to the processes that its task has started."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                # The child has a process group of its own, except right after its start.
                try:
                    os.killpg(self.pid, signum)
                except ProcessLookupError:
                    os.kill(self.pid, signum)

    def end_by(self, signum: int) -> None:
        """Send `signum` as `signal` does, to end the child unless its task handles the signal."""
        self.page.words[shared_memory.ENDING] = signum
        self.signal(signum)
        if self.pid is not None:
            # A child that runs Python code answers this, see `deaf`.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)

    @property
    def deaf(self) -> bool:
        """Whether the child has run no Python code since `end_by`, not even the handler of the signal."""
        return bool(self.page.words[shared_memory.HEARD] != self.page.words[shared_memory.ENDING])

    def continue_stopped(self, signum: int) -> None:
        """Continue a stopped child so that it receives `signum`; SIGKILL works without."""
        if self.pid is not None and signum not in _STOPPING and is_stopped(self.pid):
            self.signal(signal.SIGCONT)

    def kill_group(self) -> None:
        """Kill the processes that a dead child's task has left running."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def detach(self) -> None:
        """Remove the timers and readers of this slot from the loop; harmless when repeated."""
        for timer in (self.limit_timer, self.start_timer):
            if timer is not None:
                timer.cancel()
        self.limit_timer = self.start_timer = None
        if not self._detached:
            self._detached = True
            self.outlet.close()
            self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Close every descriptor; a child that still lives exits when it notices."""
        if self.closed:
            return
        self.closed = True
        self.detach()
        self._socket.close()
        self.retire()
        os.close(self._tokens)
        self.page.close()
        os.close(self.page_fd)


def portable(job: Job) -> bool:
    """Return whether `job` can be sent to another process."""
    try:
        marshal.dumps(tuple(job), shared_memory.VERSION)
    except ValueError:
        return False
    return True
