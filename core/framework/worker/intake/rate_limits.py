"""Rate limits: how many tasks of a name may start in a second, minute or hour.

1. Holds tasks of a limited name, first come, first served, until their start is due; other tasks pass.
2. Spaces starts evenly: a token bucket that holds one token. A start that a busy pool delays is not made up for.
3. Applies a changed limit to waiting tasks, too.
4. Takes the start times of a cluster-wide limit from a `SharedRateLimit` that all workers share.

Without limits `buckets` is empty, and callers check nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from framework.api.loop import Loop, Timer
from framework.exceptions import ConfigError
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework.client.task_policy import TaskPolicy

#: The most waiting tasks that are excluded from the prefetch limit.
HOLD_MAX: Final = 1_000
#: Seconds by which a start may make up for a late loop.
_CARRY: Final = 0.01
#: Seconds of starts to reserve in one round trip to the shared limit: one each would be too slow for high rates.
_BLOCK: Final = 0.1
#: Seconds after which a reserved start expires.
_STALE: Final = 0.25


class StartTimes(Protocol):
    """Source of start times for cluster-wide limits, see `framework.worker.intake.shared_rate_limits`."""

    def ask(self, name: str, interval: float, count: int, deliver: Callable[[float], object]) -> None:
        """Reserve the next `count` starts of `name`; call `deliver` in the loop with the seconds until the first."""


class _Bucket:
    """The starts of one task name."""

    def __init__(self, name: str, rate: float, shared: bool) -> None:
        self.name = name
        #: Seconds between two starts.
        self.interval = 1.0 / rate
        #: Whether the limit is cluster-wide.
        self.shared = shared
        self.waiting: deque[TaskRequest] = deque()
        #: Number of tasks released to the backlog and not yet submitted to the pool.
        self.unsubmitted = 0
        #: The time of the last start, on the loop's clock.
        self.last = float("-inf")
        #: Starts reserved from the shared limit, on the loop's clock.
        self.reserved: deque[float] = deque()
        #: Identifies the pending reservation; None: none is pending.
        self.pending: object | None = None
        self.timer: Timer | None = None

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class RateLimits:
    """Buckets by task name. Used in the loop only."""

    def __init__(self, loop: Loop, backlog: deque[TaskRequest], ask: Callable[[], object]) -> None:
        """A task that may start is appended to `backlog`, and `ask` is called."""
        self._loop = loop
        self._backlog = backlog
        self._ask = ask
        #: Empty: no task is limited.
        self.buckets: dict[str, _Bucket] = {}
        #: Buckets of the tasks released and still in the backlog, by `TaskRequest.seq`.
        self.released: dict[int, _Bucket] = {}
        #: Returns whether a task whose start is due may still run; settles it if not.
        self.may_run: Callable[[TaskRequest], bool] = lambda request: True
        #: Source of start times for cluster-wide limits; None: no store can count them.
        self.starts: StartTimes | None = None
        #: Limits are ignored until the step that sets them starts.
        self.disabled = True

    def __len__(self) -> int:
        """Return how many tasks wait for their start."""
        return sum(len(bucket.waiting) for bucket in self.buckets.values())

    def __iter__(self) -> Iterator[TaskRequest]:
        """Yield the tasks that wait for their start."""
        return (request for bucket in self.buckets.values() for request in bucket.waiting)

    # ------------------------------------------------------------ limits

    def set(self, name: str, rate: float, *, shared: bool = False) -> None:
        """Limit the tasks called `name` to `rate` starts a second from now on; 0: no limit.

        `shared`: the limit is cluster-wide. Raises `ConfigError` when no store can count that.
        """
        if self.disabled:
            return
        if shared and rate and self.starts is None:
            raise ConfigError(
                f"task {name} has a cluster-wide rate limit, which neither the broker nor the result store can count: "
                "set rate_limit_store under [task] to the URL of a Redis server or an SQLite file"
            )
        bucket = self.buckets.get(name)
        if not rate:
            if bucket is not None:
                del self.buckets[name]
                bucket.disarm()
                self._backlog.extend(bucket.waiting)
                bucket.waiting.clear()
                self._ask()
            return
        if bucket is None:
            bucket = self.buckets[name] = _Bucket(name, rate, shared)
            self._collect(bucket)
        else:
            bucket.interval = 1.0 / rate
            bucket.reserved.clear()
            bucket.pending = None
        self._release_due(bucket)

    def _collect(self, bucket: _Bucket) -> None:
        """Move the backlog's tasks of this name into the bucket."""
        kept: list[TaskRequest] = []
        for request in self._backlog:
            if request.name == bucket.name:
                bucket.waiting.append(request)
            else:
                kept.append(request)
        self._backlog.clear()
        self._backlog.extend(kept)

    # ------------------------------------------------------------ tasks

    def accept(self, request: TaskRequest) -> None:
        """Take `request`, which may run: at once if its name is not limited, else when its start is due."""
        bucket = self.buckets.get(request.name)
        if bucket is None:
            self._backlog.append(request)
            return
        bucket.waiting.append(request)
        if len(bucket.waiting) == 1:
            self._release_due(bucket)

    def submitted(self, seqs: Sequence[int]) -> None:
        """Count these tasks as started: the pool has them, or they were discarded."""
        now = self._loop.time()
        for seq in seqs:
            bucket = self.released.pop(seq, None)
            if bucket is not None:
                bucket.unsubmitted -= 1
                # The start counts from now: the task may have waited in the backlog since its release.
                bucket.last = max(bucket.last, now - _CARRY)
                self._release_due(bucket)

    def discard(self, unwanted: Callable[[TaskRequest], bool]) -> None:
        """Forget the waiting tasks that are `unwanted`."""
        for bucket in self.buckets.values():
            bucket.waiting = deque([request for request in bucket.waiting if not unwanted(request)])

    def clear(self) -> list[TaskRequest]:
        """Forget all tasks, also the released ones; return the waiting ones."""
        requests = list(self)
        for bucket in self.buckets.values():
            bucket.waiting.clear()
            bucket.unsubmitted = 0
            bucket.disarm()
        self.released.clear()
        return requests

    # ------------------------------------------------------------ starts

    def _release_due(self, bucket: _Bucket) -> None:
        """Release the tasks whose start is due, and arm the timer for the next."""
        bucket.disarm()
        now = self._loop.time()
        waiting = bucket.waiting
        # Released tasks that the pool has no slot for hold back the rest: all would start at once when it has.
        allowed = max(1, int(_CARRY / bucket.interval))
        released = False
        while waiting and bucket.unsubmitted < allowed:
            due = self._due(bucket, now)
            if due is None:
                break
            if due > now:
                bucket.timer = self._loop.call_later(due - now, self._release_due, bucket)
                break
            request = waiting.popleft()
            if not self.may_run(request):
                continue
            if bucket.shared:
                bucket.reserved.popleft()
            bucket.last = max(bucket.last + bucket.interval, now - _CARRY)
            bucket.unsubmitted += 1
            self.released[request.seq] = bucket
            self._backlog.append(request)
            released = True
        if released:
            self._ask()

    def _due(self, bucket: _Bucket, now: float) -> float | None:
        """Return the loop time of the next start; None: it is being reserved."""
        if not bucket.shared:
            return bucket.last + bucket.interval
        reserved = bucket.reserved
        while reserved and reserved[0] < now - max(_STALE, bucket.interval):
            reserved.popleft()
        if reserved:
            return reserved[0]
        if bucket.pending is None and self.starts is not None:
            self._reserve(bucket, self.starts)
        return None

    def _reserve(self, bucket: _Bucket, starts: StartTimes) -> None:
        interval = bucket.interval
        count = max(1, min(len(bucket.waiting), int(_BLOCK / interval)))
        pending = bucket.pending = object()

        def deliver(wait: float) -> None:
            if bucket.pending is pending:  # else the limit changed during the reservation
                bucket.pending = None
                first = self._loop.time() + wait
                bucket.reserved.extend(first + number * interval for number in range(count))
                self._release_due(bucket)

        # The rate is part of the key: workers that use another rate count separately.
        starts.ask(f"{bucket.name}@{interval:.9g}", interval, count, deliver)


def limits_of(policies: Mapping[str, TaskPolicy]) -> Iterator[tuple[str, float, bool]]:
    """Yield ``(name, rate a second, cluster-wide)`` for each limited task of `policies`."""
    for name, policy in policies.items():
        if policy.rate_limit:
            yield name, policy.rate_limit, policy.rate_limit_scope == "cluster"
