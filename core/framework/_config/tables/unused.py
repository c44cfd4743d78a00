"""Settings of old configurations that are accepted without effect.

They are options without a field: the type of a value is checked, and `app.conf` and `framework config show` return
the value, but `Settings` does not hold it.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from framework._config.tables.base import Count, Natural, Seconds


class UnusedSetting(msgspec.Struct, frozen=True):
    """A setting that is accepted without effect."""

    key: str
    type: Any
    #: The value in `framework config show` and `app.conf` if it is not set.
    default: Any
    #: Older names besides ``CELERY_<TABLE>_<KEY>``, which every option has.
    old: tuple[str, ...] = ()
    #: Spellings on the command line of `framework worker`.
    flag: tuple[str, ...] = ()
    #: The actual behaviour, regardless of the value.
    instead: str = ""

    @property
    def help(self) -> str:
        """The text of the manual."""
        return f"Kept for old configurations{'; ' if self.instead else ''}{self.instead}."


#: By table of the config file; "" is the top.
UNUSED_SETTINGS: Final[dict[str, tuple[UnusedSetting, ...]]] = {
    "": (
        UnusedSetting("enable_utc", bool, True,
                      instead="times are sent with their zone. A received time without a zone is in UTC, "
                      "unless its message names another"),
    ),
    "worker": (
        UnusedSetting("pool_putlocks", bool, True, ("CELERYD_POOL_PUTLOCKS",),
                      instead="the pool never accepts more tasks than its capacity"),
        UnusedSetting("lost_wait", Seconds, 10.0, ("CELERYD_WORKER_LOST_WAIT",),
                      instead="the output of a dead child is read at once, without waiting"),
        UnusedSetting("optimization", Literal["default", "fair"], "fair", flag=("-O", "--optimization"),
                      instead="distribution is always fair"),
        UnusedSetting("enable_prefetch_count_reduction", bool, True, ("CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION",),
                      instead="tasks that continue after a reconnect always count as reserved"),
        UnusedSetting("detect_quorum_queues", bool, True, ("CELERYD_DETECT_QUORUM_QUEUES",),
                      instead="quorum queues are always detected"),
        UnusedSetting("timer", str | None, None, ("CELERYD_TIMER", "CELERYD_ETA_SCHEDULER"),
                      instead="the loop has one timer"),
        UnusedSetting("timer_precision", Seconds, 1.0, ("CELERYD_TIMER_PRECISION", "CELERYD_ETA_SCHEDULER_PRECISION"),
                      instead="the loop wakes up when a timer is due"),
        UnusedSetting("consumer", str | None, None, ("CELERYD_CONSUMER",), instead="add steps instead"),
        UnusedSetting("agent", str | None, None, ("CELERYD_AGENT",), instead="add steps instead"),
    ),
    "task": (
        UnusedSetting("remote_tracebacks", bool, False, ("CELERY_REMOTE_TRACEBACKS",),
                      instead="the traceback of a failure is always kept, as text, in its result"),
    ),
    "result": (
        UnusedSetting("exchange", str, "celeryresults"),
        UnusedSetting("exchange_type", str, "direct"),
        UnusedSetting("cache_max", int, -1, ("CELERY_MAX_CACHED_RESULTS",),
                      instead="a result object keeps the final result of its task once it was read"),
        UnusedSetting("backend_always_retry", bool, False, instead="a worker keeps results until the store takes them"),
        UnusedSetting("backend_max_retries", Natural | None, None,
                      instead="storing a result is retried as long as the worker runs"),
        UnusedSetting("backend_base_sleep_between_retries_ms", Natural, 10,
                      instead="the first retry is after half a second"),
        UnusedSetting("backend_max_sleep_between_retries_ms", Natural, 10_000,
                      instead="two attempts are at most ten seconds apart"),
    ),
    "broker": (
        UnusedSetting("channel_error_retry", bool, False,
                      instead="the worker always reconnects after a channel error"),
        UnusedSetting("heartbeat_checkrate", Annotated[float, Meta(gt=0)], 3.0, ("BROKER_HEARTBEAT_CHECKRATE",),
                      instead="always three checks per interval"),
        UnusedSetting("pool_limit", Natural | None, 10, ("BROKER_POOL_LIMIT",),
                      instead="the threads of a process share one connection per purpose"),
        UnusedSetting("pool_acquire_timeout", Seconds | None, None,
                      instead="connections are not pooled"),
    ),
    "redis": (
        UnusedSetting("max_connections", Count | None, None,
                      instead="threads share one connection; a thread that waits for results has its own"),
        UnusedSetting("socket_timeout", Seconds | None, 120.0, instead="use socket_timeout under [result_store.redis]"),
        UnusedSetting("socket_connect_timeout", Seconds | None, None,
                      instead="use socket_connect_timeout under [result_store.redis]"),
        UnusedSetting("socket_keepalive", bool, False, instead="use socket_keepalive under [result_store.redis]"),
        UnusedSetting("retry_on_timeout", bool, False,
                      instead="a worker retries storing a result after a time-out, as after a lost connection"),
    ),
}  # fmt: skip
