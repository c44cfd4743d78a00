"""The policy of a task: its attributes and the settings, resolved once.

1. `resolve` makes the `TaskPolicy` of a task.
2. `annotate` applies the setting `annotations` of ``[task]``, setting attributes of tasks without changing their code.
   It maps names of tasks, or ``*`` for all tasks, to attributes. In code it may be a list of such mappings, and of
   objects whose `annotate(task)` returns attributes. Later entries override earlier ones, and a name overrides ``*``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from framework.client.after_end import Ends, resolve_ends
from framework.exceptions import ConfigError

if TYPE_CHECKING:
    from framework._config.settings import TaskSettings
    from framework.client.task import Task

#: The default of `max_deliveries` for a task that acks late.
DEFAULT_MAX_DELIVERIES = 3

Scope = Literal["worker", "cluster"]
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


class TaskPolicy(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A task's policy for delivery, limits and results; times are in seconds."""

    acks_late: bool
    #: The action on the message after each end other than success.
    ends: Ends
    #: How often the message may be delivered; None: no limit.
    max_deliveries: int | None
    ignore_result: bool
    store_errors_even_if_ignored: bool
    track_started: bool
    time_limit: float | None
    soft_time_limit: float | None
    #: Starts a second; 0.0: no limit.
    rate_limit: float
    #: Whether the limit is for each worker, or for all workers together.
    rate_limit_scope: Scope = "worker"
    #: None: no limit.
    max_retries: int | None
    #: The delay of a retry that the worker makes.
    retry_delay: float
    send_events: bool
    resultrepr_maxsize: int

    def ignores(self, requested: bool | None) -> bool:
        """Return whether the result is not stored; `requested` is the header `ignore_result` of the call."""
        return self.ignore_result if requested is None else requested


def resolve(task: Any, settings: TaskSettings) -> TaskPolicy:
    """Return the policy of `task`: its attributes if set, else the settings."""

    def own(name: str, default: Any) -> Any:
        value = getattr(task, name, None)
        return default if value is None else value

    acks_late = bool(own("acks_late", settings.acks_late))
    deliveries = own("max_deliveries", settings.max_deliveries)
    return TaskPolicy(
        acks_late=acks_late,
        ends=resolve_ends(task, settings, acks_late),
        max_deliveries=DEFAULT_MAX_DELIVERIES if deliveries is None and acks_late else deliveries,
        ignore_result=bool(own("ignore_result", settings.ignore_result)),
        store_errors_even_if_ignored=bool(own("store_errors_even_if_ignored", settings.store_errors_even_if_ignored)),
        track_started=bool(own("track_started", settings.track_started)),
        time_limit=own("time_limit", settings.time_limit),
        soft_time_limit=own("soft_time_limit", settings.soft_time_limit),
        rate_limit=_rate_of(task, own("rate_limit", settings.default_rate_limit)),
        rate_limit_scope=_scope_of(task, own("rate_limit_scope", settings.rate_limit_scope)),
        max_retries=task.max_retries,
        retry_delay=float(task.default_retry_delay),
        send_events=bool(task.send_events),
        resultrepr_maxsize=task.resultrepr_maxsize,
    )


def parse_rate(rate: object) -> float:
    """Return `rate`, a number or text like ``10/s``, ``200/m``, ``1000/h``, in starts a second; 0.0: no limit.

    Raises `ConfigError` for any other value.
    """
    if rate is None or rate == "":
        return 0.0
    number, seconds = rate, 1.0
    if isinstance(rate, str):
        number, slash, unit = rate.partition("/")
        seconds = _UNITS.get(unit.strip(), 0.0) if slash else 1.0
    try:
        value = float(number) if isinstance(number, (str, int, float)) and not isinstance(rate, bool) else -1.0
    except (ValueError, OverflowError):
        value = -1.0
    if not seconds or value < 0 or not isfinite(value):
        raise ConfigError(
            f"Invalid rate limit string: {rate!r}; allowed are a number of starts a second, or one for each second, "
            'minute or hour such as "10/s", "200/m" or "1000/h"; None or 0: no limit'
        )
    return value / seconds


def _rate_of(task: Any, rate: object) -> float:
    try:
        return parse_rate(rate)
    except ConfigError as error:
        raise ConfigError(f"the rate_limit of task {task.name}: {error}") from None


def _scope_of(task: Any, scope: Any) -> Scope:
    if scope not in ("worker", "cluster"):
        raise ConfigError(f"the rate_limit_scope of task {task.name} is {scope!r}; allowed are 'worker' and 'cluster'")
    return scope  # type: ignore[no-any-return]


def annotate(task: Task[..., Any], annotations: Any) -> None:
    """Set the attributes of `task` that `annotations` contain. Raises `ConfigError` for an unknown attribute."""
    if not annotations:
        return
    kind = type(task)
    for attributes in _of(task, annotations):
        if not isinstance(attributes, Mapping):
            raise ConfigError(f"task_annotations: {task.name} must have a table of attributes, not {attributes!r}")
        for name, value in attributes.items():
            if name.startswith("_") or not hasattr(kind, name):
                close = difflib.get_close_matches(name, [key for key in dir(kind) if not key.startswith("_")], 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(f"task_annotations: {task.name} has no attribute {name!r}{hint}")
            # On the class, which belongs to this task alone, so that functions become methods.
            setattr(kind, name, value)


def _of(task: Task[..., Any], annotations: Any) -> Iterator[Any]:
    for one in annotations if isinstance(annotations, (list, tuple)) else (annotations,):
        if isinstance(one, Mapping):
            yield one.get("*") or {}
            yield one.get(task.name) or {}
        elif hasattr(one, "annotate"):
            yield one.annotate(task) or {}
        else:
            raise ConfigError(f"task_annotations must map names of tasks to attributes, not {one!r:.100}")
