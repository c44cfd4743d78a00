"""Every exception of the framework, in one tree.

1. `FrameworkError`: what can go wrong in the framework itself; each carries a sentence and an exit code.
2. `TaskPredicate`: raised by a task to say how it ended (`Retry`, `Ignore`, `Reject`).
3. Outcomes stored as results (`TimeLimitExceeded`, `WorkerLostError`, …). Their `wire_module` is the module
   under which Celery clients look them up, so that both ends raise the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from framework import exitcodes


class FrameworkError(Exception):
    """Something the user can mend; `str(error)` is one sentence, with the remedy where there is one."""

    exit_code: ClassVar[int] = exitcodes.SOFTWARE


# ---------------------------------------------------------------- configuration and start


class ConfigError(FrameworkError):
    """A setting, a file or an option has a wrong name or value."""

    exit_code = exitcodes.CONFIG


class ImproperlyConfigured(ConfigError):
    """The settings contradict each other."""

    wire_module = "celery.exceptions"


class AppNotFound(ConfigError):
    """No application was found where the user said one is."""


class QueueNotFound(ConfigError):
    """A queue was named that is not defined, and missing queues may not be created."""

    wire_module = "celery.exceptions"


class PluginError(FrameworkError):
    """A plugin cannot be used; the text names it, its distribution, and what to do."""

    exit_code = exitcodes.CONFIG


class PluginNotFound(PluginError):
    """No distribution offers a plugin of that name."""


class PluginConflict(PluginError):
    """Two distributions offer a plugin of the same name."""


class PluginUnavailable(PluginError):
    """The plugin is installed, but something that it needs is not."""


class PluginInvalid(PluginError):
    """The plugin does not keep its family's contract."""


class GraphError(FrameworkError):
    """The steps cannot be put in order."""

    exit_code = exitcodes.CONFIG


class GraphCycle(GraphError):
    """Steps require each other in a circle; the text prints the circle."""


class GraphGap(GraphError):
    """A step requires what nothing provides."""


class StepFailed(FrameworkError):
    """A step could not start; everything that had started was stopped again."""


# ---------------------------------------------------------------- broker and result store


class TransportError(FrameworkError):
    """The broker refused something."""

    exit_code = exitcodes.UNAVAILABLE


class ConnectionLost(TransportError):
    """The broker or result store cannot be reached; trying again may help."""

    exit_code = exitcodes.UNREACHABLE


class PublishRefused(TransportError):
    """The broker did not take a message (unroutable, queue full, too large)."""

    def __init__(self, text: str = "", refused: frozenset[int] | None = None) -> None:
        """`refused`: the places, in what was published, of those that it did not take; None: it took none."""
        super().__init__(text)
        self.refused = refused


OperationalError = ConnectionLost


# ---------------------------------------------------------------- messages


class MessageError(FrameworkError):
    """A message from the broker cannot become a task; it goes to the dead-letter queue."""

    reason: ClassVar[str] = "invalid"


class MessageUndecodable(MessageError):
    """The bytes are not what their headers say."""

    reason = "undecodable"


class ContentRefused(MessageError):
    """The content type is not in `accept_content`."""

    reason = "content-refused"


class MessageTooLarge(MessageError):
    """The body is larger, or nested deeper, than the settings allow."""

    reason = "too-large"


# ---------------------------------------------------------------- how a task says that it ended


class TaskPredicate(FrameworkError):
    """Raised inside a task: not a failure but an instruction."""

    wire_module = "celery.exceptions"


class Retry(TaskPredicate):
    """The task was sent again. Raised by `Task.retry`, or by the task itself."""

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: datetime | float | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        self.message = message
        self.exc = exc
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        """Say when the task runs again: `in 10.0s`, or `at <time>`."""
        if isinstance(self.when, (int, float)):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.exc is not None:
            return f"Retry {self.humanize()}: {self.exc!r}"
        return f"Retry {self.humanize()}"


class Ignore(TaskPredicate):
    """Store nothing, acknowledge the message."""


class Reject(TaskPredicate):
    """Reject the message, optionally putting it back on its queue."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __str__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


# ---------------------------------------------------------------- outcomes, as stored


class TaskError(FrameworkError):
    """Base of what a task's caller may see."""

    wire_module = "celery.exceptions"


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task when its soft time limit is over; catch it to clean up."""

    wire_module = "billiard.exceptions"

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args!r}"


class TimeLimitExceeded(TaskError):
    """The task was stopped at its hard time limit; the argument is that limit in seconds."""

    wire_module = "billiard.exceptions"

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args!r}"


class WorkerLostError(TaskError):
    """The process that ran the task died."""

    wire_module = "billiard.exceptions"


class Terminated(TaskError):
    """The task was terminated from outside."""

    wire_module = "billiard.exceptions"


class TaskRevokedError(TaskError):
    """The task was revoked, terminated, or has expired; the argument says which."""


class NotRegistered(KeyError, TaskError):
    """The worker has no task of that name."""

    wire_module = "celery.exceptions"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AlreadyRegistered(ConfigError):
    """Two different functions were registered under one task name."""

    wire_module = "celery.exceptions"


class InvalidTaskError(TaskError):
    """The message does not describe a call."""


class MaxRetriesExceededError(TaskError):
    """The task was retried as often as it may."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args: Any = kwargs.pop("task_args", ())
        self.task_kwargs: Mapping[str, Any] = kwargs.pop("task_kwargs", {})
        super().__init__(*args)


class TimeoutError(TaskError):  # noqa: A001 - the name users of the guide import
    """A result did not arrive within the time given."""


class IncompleteStream(TaskError):
    """A task has not ended, so what it will send is not known."""


class ChordError(TaskError):
    """A member of a chord's header failed."""


class BackendError(TaskError):
    """The result store refused something."""


class UnknownError(TaskError):
    """A stored exception whose class does not exist here; the text keeps its name and message."""


def wire_module(exc_type: type[BaseException]) -> str:
    """Return the module under which peers look `exc_type` up (`celery.exceptions` for most of ours)."""
    return str(getattr(exc_type, "wire_module", exc_type.__module__))
