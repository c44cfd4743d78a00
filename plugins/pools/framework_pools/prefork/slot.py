"""The worker's side of one child.

1. `give` hands jobs over: their numbers into the pipe from which the child claims, the jobs into the socket.
2. `take_back` returns, at any moment, the jobs that the child has not claimed: they have not run, and will not.
3. `collect` empties the child's outbox.
4. `retire` lets the child end after the job that it is in; `signal` reaches the child and the processes it started.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from struct import pack
from time import monotonic, monotonic_ns
from typing import Any, Final

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
    """Why a child is about to be killed, and for which job."""

    __slots__ = ("code", "job", "text")

    def __init__(self, job: Job, code: int, text: str) -> None:
        self.job = job
        self.code = code
        self.text = text


class Slot:
    """One child, from the request for it until its end has been dealt with."""

    def __init__(self, loop: Loop, launcher: Launcher, spec: ChildSpec, on_news: Callable[[Slot], object]) -> None:
        self._loop = loop
        self._on_news = on_news
        self.launcher = launcher
        self.spec = spec
        self.pid: int | None = None
        #: Jobs given and not ended, in order, each with what it is expected to cost.
        self.jobs: dict[int, tuple[Job, float]] = {}
        #: Sum of these costs, in seconds.
        self.load = 0.0
        #: When it was last seen to make progress, or was given something to do (monotonic seconds).
        self.touched = 0.0
        #: The child has come up.
        self.ready = False
        #: The child takes no more jobs.
        self.retired = False
        #: The child is in one job for longer than others may wait.
        self.stalled = False
        self.pending_kill: PendingKill | None = None
        #: A signal or a debugger has stopped the child.
        self.stopped = False
        #: The child is about to be killed for its own sake, not for a job's.
        self.given_up = False
        #: Somebody waits for the child's stack.
        self.asked = False
        #: The job about which the log has said that it takes very long.
        self.told: int | None = None
        self.closed = False
        self._detached = False
        #: The job whose soft limit has been dealt with.
        self.warned: int | None = None
        #: Jobs that the child may still be given, if its number of jobs is limited.
        self.left: int | None = spec.max_tasks or None
        #: Jobs ended, for `inspect stats`.
        self.done = 0
        self.limit_timer: Timer | None = None
        self.limit_due = 0.0
        self.start_timer: Timer | None = None

        #: Outcomes that came through the socket.
        self._large: list[tuple[Any, ...]] = []

        self._socket, theirs = socket.socketpair()
        self._tokens, self._tokens_write = os.pipe()
        #: Also the child's: see `stacks`.
        self.page_fd = shared_memory.create()
        try:
            # One description for both ends' readers: neither may block in it.
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
        """Hand `batch` to the child. Raises `ValueError` if a payload cannot be carried; nothing has happened then."""
        self.outlet.send(marshal.dumps([tuple(job) for job, _cost in batch], shared_memory.VERSION))
        seqs = [job[0] for job, _cost in batch]
        if not self.jobs:
            self.touched = monotonic()
        for seq, entry in zip(seqs, batch, strict=True):
            self.jobs[seq] = entry
            self.load += entry[1]
        if self.left is not None:
            self.left -= len(seqs)
        self._offer(seqs)

    def _offer(self, seqs: Sequence[int]) -> None:
        # The pipe holds 8,192 numbers, far more than a child is ever given.
        os.write(self._tokens_write, pack(f"={len(seqs)}Q", *seqs))

    def take_back(self, keep: Iterable[int] = ()) -> list[tuple[Job, float]]:
        """Return the jobs that the child has not claimed, but for those in `keep`; the child will never run them."""
        if len(self.jobs) == 0:
            return []
        try:
            data = os.read(self._tokens, _TOKENS_MAX)
        except BlockingIOError:
            return []
        seqs = memoryview(data).cast("Q").tolist()
        kept = [seq for seq in seqs if seq in keep] if keep else []
        if kept:
            self._offer(kept)
            seqs = [seq for seq in seqs if seq not in keep]
        taken = [self.jobs.pop(seq) for seq in seqs]
        self._lighten(sum(cost for _job, cost in taken))
        if self.left is not None:
            self.left += len(taken)
        return taken

    def collect(self) -> list[tuple[Any, ...]]:
        """Return the outcomes that the child has put into its outbox, or sent because they are too large for it."""
        records = self.page.take()
        if self._large:
            records += self._large
            self._large = []
        if records:
            self.touched = monotonic()
        return records

    def end_job(self, seq: int) -> Job | None:
        """Forget `seq`, which has ended; returns its job, None if the child does not have it."""
        entry = self.jobs.pop(seq, None)
        if entry is None:
            return None
        self._lighten(entry[1])
        self.stalled = False
        self.done += 1
        return entry[0]

    def _lighten(self, cost: float) -> None:
        # Sums of floats drift: an empty slot weighs nothing.
        load = self.load - cost
        self.load = load if self.jobs and load > 0.0 else 0.0

    def running(self) -> tuple[Job, int] | None:
        """Return the job that the child is in and its start (monotonic ns); None if it is in none."""
        seq, started = self.page.running()
        entry = self.jobs.get(seq)
        return None if entry is None else (entry[0], started)

    def elapsed(self) -> float:
        """Return for how long the child has been in its job, in seconds; 0 if it is in none."""
        current = self.running()
        return 0.0 if current is None else (monotonic_ns() - current[1]) / 1e9

    # ------------------------------------------------------------ the child

    @property
    def state(self) -> int:
        """What the child says of itself, a constant of `page`."""
        return int(self.page.words[shared_memory.STATE])

    @property
    def loaded(self) -> bool:
        """Whether the child has the application."""
        return bool(self.page.words[shared_memory.LOADED])

    def _readable(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # What it died of comes from the server, which has waited for it.
            self._loop.remove_reader(self._socket.fileno())
        self._large += [marshal.loads(record) for record in self._reader.feed(data)]
        self._on_news(self)

    def last_words(self) -> list[tuple[Any, ...]]:
        """Return every outcome that a dead child has left."""
        records = self.collect()
        with suppress(OSError):
            while data := self._socket.recv(CHUNK):
                records += [marshal.loads(record) for record in self._reader.feed(data)]
        return records

    def retire(self) -> None:
        """Let the child end when it has done what it has claimed; call `take_back` first. Harmless when repeated."""
        if not self.retired:
            self.retired = True
            self.touched = monotonic()
            os.close(self._tokens_write)

    def warn(self, seq: int) -> None:
        """Have `SoftTimeLimitExceeded` raised in the job `seq`, if that still runs."""
        self.warned = seq
        if self.pid is not None:
            self.page.words[shared_memory.SOFT] = seq
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)

    def signal(self, signum: int) -> None:
        """Send `signum` to the child and to the processes that its task started."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                # The child's own group; before it has made one, the child alone.
                try:
                    os.killpg(self.pid, signum)
                except ProcessLookupError:
                    os.kill(self.pid, signum)

    def resume(self, signum: int) -> None:
        """Have a stopped child take the `signum` that was sent to it; SIGKILL needs no help."""
        if self.pid is not None and signum not in _STOPPING and is_stopped(self.pid):
            self.signal(signal.SIGCONT)

    def sweep(self) -> None:
        """Kill what a dead child's task has left running."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def detach(self) -> None:
        """Have nothing of ours left in the loop; harmless when repeated."""
        for timer in (self.limit_timer, self.start_timer):
            if timer is not None:
                timer.cancel()
        self.limit_timer = self.start_timer = None
        if not self._detached:
            self._detached = True
            self.outlet.close()
            self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Let go of everything; the child is dead, or will notice."""
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
    """Return whether `job` can be handed to another process."""
    try:
        marshal.dumps(tuple(job), shared_memory.VERSION)
    except ValueError:
        return False
    return True
