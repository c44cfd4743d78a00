"""What the worker's main process needs to know about a task, resolved once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from framework._config.settings import TaskSettings

#: Deliveries after which a task that acks late is given up, where nothing else is said.
DEFAULT_MAX_DELIVERIES = 3


class TaskPolicy(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How a task is delivered, limited and recorded; times are in seconds."""

    acks_late: bool
    acks_on_failure: bool
    acks_on_timeout: bool
    reject_on_worker_lost: bool
    retry_on_worker_lost: bool
    #: How often the message may be handed out; None: no limit.
    max_deliveries: int | None
    ignore_result: bool
    store_errors_even_if_ignored: bool
    track_started: bool
    time_limit: float | None
    soft_time_limit: float | None
    rate_limit: str | int | float | None
    #: None: retried for ever.
    max_retries: int | None
    send_events: bool
    resultrepr_maxsize: int

    def ignores(self, wish: bool | None) -> bool:
        """Return whether the result is not kept; `wish` is the call's own (`ignore_result` of its message)."""
        return self.ignore_result if wish is None else wish


def resolve(task: Any, settings: TaskSettings) -> TaskPolicy:
    """Return the policy of `task`: its own attributes where set, else the settings."""

    def own(name: str, default: Any) -> Any:
        value = getattr(task, name, None)
        return default if value is None else value

    acks_late = bool(own("acks_late", settings.acks_late))
    umbrella = own("acks_on_failure_or_timeout", settings.acks_on_failure_or_timeout)
    on_failure = own("acks_on_failure", settings.acks_on_failure)
    on_timeout = own("acks_on_timeout", settings.acks_on_timeout)
    deliveries = own("max_deliveries", settings.max_deliveries)
    return TaskPolicy(
        acks_late=acks_late,
        acks_on_failure=bool(umbrella if on_failure is None else on_failure),
        acks_on_timeout=bool(umbrella if on_timeout is None else on_timeout),
        reject_on_worker_lost=bool(own("reject_on_worker_lost", settings.reject_on_worker_lost)),
        retry_on_worker_lost=bool(own("retry_on_worker_lost", settings.retry_on_worker_lost)),
        max_deliveries=DEFAULT_MAX_DELIVERIES if deliveries is None and acks_late else deliveries,
        ignore_result=bool(own("ignore_result", settings.ignore_result)),
        store_errors_even_if_ignored=bool(own("store_errors_even_if_ignored", settings.store_errors_even_if_ignored)),
        track_started=bool(own("track_started", settings.track_started)),
        time_limit=own("time_limit", settings.time_limit),
        soft_time_limit=own("soft_time_limit", settings.soft_time_limit),
        rate_limit=own("rate_limit", settings.default_rate_limit),
        max_retries=task.max_retries,
        send_events=bool(task.send_events),
        resultrepr_maxsize=task.resultrepr_maxsize,
    )
