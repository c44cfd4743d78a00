"""What follows each end of a task: one table for each task, `Ends`.

1. The columns are the ends that are not a success: a failure, either time limit, a lost process, a cold stop.
2. The cells are `Action`s on the message: acknowledge it, give it back, send it again as a retry, or bury it.
3. Celery's settings are names for cells of that table (`resolve_ends`); the setting and the task option `ends` fill in
   any of them, and win.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from framework.api import pool as outcomes
from framework.exceptions import ConfigError

if TYPE_CHECKING:
    from framework._config.settings import TaskSettings

#: How a task may end other than well.
End = Literal["failure", "soft_timeout", "hard_timeout", "worker_lost", "shutdown"]


class Action(enum.Enum):
    """What to do with a message."""

    ACK = "ack"
    #: Back to its queue; the delivery is counted, and `max_deliveries` ends it.
    REQUEUE = "requeue"
    #: A new message with the retries counted up, after the task's `default_retry_delay`; `max_retries` ends it.
    RETRY = "retry"
    DEAD_LETTER = "dead-letter"


class Ends(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What follows each end."""

    failure: Action = Action.ACK
    soft_timeout: Action = Action.ACK
    hard_timeout: Action = Action.ACK
    worker_lost: Action = Action.ACK
    #: A cold stop, which ends what runs.
    shutdown: Action = Action.ACK


_BY_CODE: Final = {
    outcomes.FAILURE: "failure",
    outcomes.SOFT_TIMED_OUT: "soft_timeout",
    outcomes.TIMED_OUT: "hard_timeout",
    outcomes.WORKER_LOST: "worker_lost",
}


def decide(code: int, ends: Ends, retries: int, max_retries: int | None) -> Action:
    """Return what becomes of a message whose task has ended with `code`; it has been retried `retries` times.

    What a process that runs tasks does itself about a failure, to retry or to requeue it, has come to another code.
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
    """Return the table of `task`: what `ends` says, else what Celery's settings come to.

    Raises `ConfigError` for an end or an action that there is not, and for a requeue of what was acknowledged before.
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
        raise ConfigError(f"{where}: {error}; there are {known}, and what follows is one of {actions}") from None
    if acks_late or Action.REQUEUE not in cells.values():
        return cells
    if where == _EVERYWHERE:
        # For all tasks: those that are acknowledged early have nothing to give back.
        return {end: action for end, action in cells.items() if action is not Action.REQUEUE}
    raise ConfigError(f"{where}: only what is acknowledged late can be given back; set acks_late, or choose retry")
