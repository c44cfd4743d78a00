"""Rate limits: how many tasks of a name may start in a second, minute or hour.

1. Holds tasks of a limited name, first come, first served, until their start is due; all others pass by.
2. Starts are evenly spaced: a token bucket that holds one token. A start that a busy pool delays is not made up for.
3. A change takes hold of what waits already.
4. A limit of the whole cluster takes the times of its starts from a `SharedRateLimit` that all workers share.

Where no task is limited, `buckets` is empty and nobody asks any further.
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

#: Most tasks that may wait for their turn without taking room from others in the prefetch.
HOLD_MAX: Final = 1_000
#: Seconds by which a start may make up for the loop's being late.
_CARRY: Final = 0.01
#: Seconds of starts to ask of a turnstile at a time: rates of thousands must not cost as many round trips.
_BLOCK: Final = 0.1
#: Seconds after which the time of a start that was given to us is over.
_STALE: Final = 0.25


class StartTimes(Protocol):
    """Where the starts of a whole cluster are given out, see `framework.worker.intake.shared_rate_limits`."""

    def ask(self, name: str, interval: float, count: int, deliver: Callable[[float], object]) -> None:
        """Ask for the next `count` starts of `name`; `deliver` is told in the loop in how many seconds they begin."""


class _Bucket:
    """The starts of one task name."""

    def __init__(self, name: str, rate: float, shared: bool) -> None:
        self.name = name
        #: Seconds between two starts.
        self.interval = 1.0 / rate
        #: The limit is the cluster's.
        self.shared = shared
        self.waiting: deque[TaskRequest] = deque()
        #: Let go, and not yet with the pool.
        self.out = 0
        #: The time of the last start, on the loop's clock.
        self.last = float("-inf")
        #: Starts that a turnstile has given us, on the loop's clock.
        self.given: deque[float] = deque()
        #: What was asked of the turnstile; None: nothing is.
        self.asked: object | None = None
        self.timer: Timer | None = None

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class RateLimits:
    """Buckets by task name. Used in the loop only."""

    def __init__(self, loop: Loop, backlog: deque[TaskRequest], ask: Callable[[], object]) -> None:
        """What may start is put at the end of `backlog`, and `ask` called."""
        self._loop = loop
        self._backlog = backlog
        self._ask = ask
        #: Empty: nothing is limited.
        self.buckets: dict[str, _Bucket] = {}
        #: By item: let go, and still in the backlog.
        self.released: dict[int, _Bucket] = {}
        #: Says whether an item whose turn has come may still run, and settles it if not.
        self.may_run: Callable[[TaskRequest], bool] = lambda request: True
        #: Where limits of the cluster are counted; None: there is no such place.
        self.starts: StartTimes | None = None
        #: Limits are ignored altogether, unless the step that sets them is there.
        self.disabled = True

    def __len__(self) -> int:
        """Return how many tasks wait for their turn."""
        return sum(len(bucket.waiting) for bucket in self.buckets.values())

    def __iter__(self) -> Iterator[TaskRequest]:
        """Yield the tasks that wait for their turn."""
        return (request for bucket in self.buckets.values() for request in bucket.waiting)

    # ------------------------------------------------------------ limits

    def set(self, name: str, rate: float, *, shared: bool = False) -> None:
        """Let `rate` tasks called `name` start in a second, from now on; 0: as many as there are.

        `shared`: that many in the whole cluster. Raises `ConfigError` when there is nothing to count those with.
        """
        if self.disabled:
            return
        if shared and rate and self.starts is None:
            raise ConfigError(
                f"the rate limit of task {name} is the cluster's, and there is nothing to count it with: the broker "
                "and the result store are neither Redis nor SQLite; set rate_limit_store under [task] to the URL of one"
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
            self._draw_in(bucket)
        else:
            bucket.interval = 1.0 / rate
            bucket.given.clear()
            bucket.asked = None
        self._turn(bucket)

    def _draw_in(self, bucket: _Bucket) -> None:
        """Have tasks that wait for the pool wait for their turn as well."""
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
        """Take in `request`, which may run: now, if its name is not limited, else when its turn has come."""
        bucket = self.buckets.get(request.name)
        if bucket is None:
            self._backlog.append(request)
            return
        bucket.waiting.append(request)
        if len(bucket.waiting) == 1:
            self._turn(bucket)

    def submitted(self, seqs: Sequence[int]) -> None:
        """Hear that these have gone to the pool."""
        now = self._loop.time()
        for seq in seqs:
            bucket = self.released.pop(seq, None)
            if bucket is not None:
                bucket.out -= 1
                # It starts now, however long ago it was let go.
                bucket.last = max(bucket.last, now - _CARRY)
                self._turn(bucket)

    def discard(self, unwanted: Callable[[TaskRequest], bool]) -> None:
        """Forget the waiting tasks that are `unwanted`."""
        for bucket in self.buckets.values():
            bucket.waiting = deque([request for request in bucket.waiting if not unwanted(request)])

    def clear(self) -> list[TaskRequest]:
        """Forget all tasks, those let go as well, and return those that waited."""
        requests = list(self)
        for bucket in self.buckets.values():
            bucket.waiting.clear()
            bucket.out = 0
            bucket.disarm()
        self.released.clear()
        return requests

    # ------------------------------------------------------------ turns

    def _turn(self, bucket: _Bucket) -> None:
        """Let go what is due, and have the next turn come."""
        bucket.disarm()
        now = self._loop.time()
        waiting = bucket.waiting
        # What was let go and finds no room in the pool holds back the rest, or they would start all at once.
        room = max(1, int(_CARRY / bucket.interval))
        let_go = False
        while waiting and bucket.out < room:
            due = self._due(bucket, now)
            if due is None:
                break
            if due > now:
                bucket.timer = self._loop.call_later(due - now, self._turn, bucket)
                break
            request = waiting.popleft()
            if not self.may_run(request):
                continue
            if bucket.shared:
                bucket.given.popleft()
            bucket.last = max(bucket.last + bucket.interval, now - _CARRY)
            bucket.out += 1
            self.released[request.seq] = bucket
            self._backlog.append(request)
            let_go = True
        if let_go:
            self._ask()

    def _due(self, bucket: _Bucket, now: float) -> float | None:
        """Return when the next one may start; None: we do not know yet."""
        if not bucket.shared:
            return bucket.last + bucket.interval
        given = bucket.given
        while given and given[0] < now - max(_STALE, bucket.interval):
            given.popleft()
        if given:
            return given[0]
        if bucket.asked is None and self.starts is not None:
            self._ask_for_starts(bucket, self.starts)
        return None

    def _ask_for_starts(self, bucket: _Bucket, starts: StartTimes) -> None:
        interval = bucket.interval
        count = max(1, min(len(bucket.waiting), int(_BLOCK / interval)))
        asked = bucket.asked = object()

        def deliver(wait: float) -> None:
            if bucket.asked is asked:  # else the limit has changed meanwhile
                bucket.asked = None
                first = self._loop.time() + wait
                bucket.given.extend(first + number * interval for number in range(count))
                self._turn(bucket)

        # Workers that were told another rate count by themselves.
        starts.ask(f"{bucket.name}@{interval:.9g}", interval, count, deliver)


def limits_of(policies: Mapping[str, TaskPolicy]) -> Iterator[tuple[str, float, bool]]:
    """Yield name, rate (a second) and whether it is the cluster's, for each task of `policies` that is limited."""
    for name, policy in policies.items():
        if policy.rate_limit:
            yield name, policy.rate_limit, policy.rate_limit_scope == "cluster"
