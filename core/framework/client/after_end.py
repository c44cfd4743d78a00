"""The action on a message after each end of its task: one table for each task, `Ends`.

1. The columns are the ends other than success: a failure, either time limit, a lost process, a cold stop.
2. The cells are `Action`s on the message: acknowledge, requeue, retry, or move to the dead-letter queue.
3. `resolve_ends` fills the table from Celery's settings, then from the setting and the task option `ends`, which win.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from framework.api import pool as outcomes
from framework.exceptions import ConfigError

if TYPE_CHECKING:
    from framework._config.settings import TaskSettings

#: The ends of a task other than success.
End = Literal["failure", "soft_timeout", "hard_timeout", "worker_lost", "shutdown"]


class Action(enum.Enum):
    """An action on the message of a task that has ended."""

    ACK = "ack"
    #: Back to its queue, until `max_deliveries` is reached.
    REQUEUE = "requeue"
    #: A new message with one retry more, after the task's `default_retry_delay`, until `max_retries` is reached.
    RETRY = "retry"
    DEAD_LETTER = "dead-letter"


class Ends(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The action after each end."""

    failure: Action = Action.ACK
    soft_timeout: Action = Action.ACK
    hard_timeout: Action = Action.ACK
    worker_lost: Action = Action.ACK
    #: A cold stop, which ends running tasks.
    shutdown: Action = Action.ACK


_BY_CODE: Final = {
    outcomes.FAILURE: "failure",
    outcomes.SOFT_TIMED_OUT: "soft_timeout",
    outcomes.TIMED_OUT: "hard_timeout",
    outcomes.WORKER_LOST: "worker_lost",
}


def decide(code: int, ends: Ends, retries: int, max_retries: int | None) -> Action:
    """Return the action on a message whose task has ended with `code` after `retries` retries.

    A failure that the task's own process has retried or requeued has another code.
    """
    if code in _BY_CODE:
        action: Action = getattr(ends, _BY_CODE[code])
        spent = max_retries is not None and retries >= max_retries
        if action is Action.RETRY and (spent or code in (outcomes.FAILURE, outcomes.SOFT_TIMED_OUT)):
            return Action.ACK
        return action
    if code == outcomes.REQUEUED:
        return Action.REQUEUE
    if code in (outcomes.REJECTED, outcomes.INVALID):
        return Action.DEAD_LETTER
    return Action.ACK


def resolve_ends(task: Any, settings: TaskSettings, acks_late: bool) -> Ends:
    """Return the table of `task`: its option `ends`, else the setting `ends`, else Celery's settings.

    Raises `ConfigError` for an unknown end or action, and for a requeue of a message that is acknowledged early.
    """

    def own(name: str, default: Any) -> Any:
        value = getattr(task, name, None)
        return default if value is None else value

    retried = bool(own("retry_on_worker_lost", settings.retry_on_worker_lost))
    cells: dict[str, Action] = {"worker_lost": Action.RETRY} if retried else {}
    if acks_late:
        umbrella = own("acks_on_failure_or_timeout", settings.acks_on_failure_or_timeout)
        on_failure = own("acks_on_failure", settings.acks_on_failure)
        on_timeout = own("acks_on_timeout", settings.acks_on_timeout)
        rejected = own("reject_on_worker_lost", settings.reject_on_worker_lost)
        failure = Action.ACK if (umbrella if on_failure is None else on_failure) else Action.DEAD_LETTER
        cells = {
            "failure": failure,
            "soft_timeout": failure,
            "hard_timeout": Action.ACK if (umbrella if on_timeout is None else on_timeout) else Action.REQUEUE,
            "worker_lost": Action.REQUEUE if rejected else Action.ACK,
            "shutdown": Action.REQUEUE,
            **cells,
        }
    everywhere = _given(settings.ends, _EVERYWHERE, acks_late)
    return Ends(**{**cells, **everywhere, **_given(task.ends, f"the ends of {task.name}", acks_late)})


_EVERYWHERE: Final = "ends under [task]"


def _given(ends: Any, where: str, acks_late: bool) -> dict[str, Action]:
    if not ends:
        return {}
    try:
        cells: dict[str, Action] = {**msgspec.convert(ends, dict[End, Action])}
    except msgspec.ValidationError as error:
        known = ", ".join(Ends.__struct_fields__)
        actions = ", ".join(action.value for action in Action)
        raise ConfigError(f"{where}: {error}; the ends are {known}, the actions {actions}") from None
    if acks_late or Action.REQUEUE not in cells.values():
        return cells
    if where == _EVERYWHERE:
        # The setting is for all tasks: messages that are acknowledged early cannot be requeued.
        return {end: action for end, action in cells.items() if action is not Action.REQUEUE}
    raise ConfigError(f"{where}: only a message that is acknowledged late can be requeued; set acks_late or use retry")
